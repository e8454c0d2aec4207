//! Follows a source of the DNS. Each source has one task, which asks again when the TTLs end and reports the addresses.
//!
//! A round asks each question once. The round ends with the first answers. A late answer is added when it comes, and
//! delays no other answer.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::answer::{Late, Part};
use super::answers::{HostAnswers, RoundResult, SrvAnswers, set};
use super::dns::Askers;
use super::fault::DnsFault;
use super::report::{LookOutcome, ReportSender};
use super::schedule::{LookSchedule, randomness};
use super::set::DiscoveredSet;
use crate::pool::discover_spec::{DnsSpec, RecordKind};

/// The longest time for which a round waits for the other names after the first answer. The targets of SRV records
/// may have other resolvers.
const OTHER_NAMES: Duration = Duration::from_secs(1);

/// Late answers that come within this time of each other are reported together.
const TOGETHER: Duration = Duration::from_millis(20);

/// Asks the DNS until the receiver of the reports is gone, and reports the answers.
///
/// # Cancel safety
///
/// May be dropped at any moment; the last answers are lost.
pub(super) async fn follow(spec: DnsSpec, askers: Askers, reports: ReportSender) {
    let known = SourceAnswers::new(&spec);
    let pace = LookSchedule::new(&spec);
    let questions = OpenQuestions::default();
    Follower { spec, askers, reports, known, pace, questions, has_failed: false }.follow().await;
}

struct Follower {
    spec: DnsSpec,
    askers: Askers,
    reports: ReportSender,
    known: SourceAnswers,
    pace: LookSchedule,
    questions: OpenQuestions,
    /// True if a question of this round has failed.
    has_failed: bool,
}

impl Follower {
    async fn follow(mut self) {
        loop {
            let told = self.round().await;
            let mut until = Instant::now() + self.wait(&told);
            if !self.tell(told).await {
                return;
            }
            loop {
                let answered = tokio::select! {
                    answered = self.questions.next(), if self.questions.are_open() => answered,
                    () = sleep_until(until) => break,
                    () = self.askers.changed() => break,
                    () = self.reports.expired() => {
                        if !self.reports.expire().await {
                            return;
                        }
                        continue;
                    }
                };
                let Some(answered) = answered else { continue };
                let Some(told) = self.late(answered).await else { continue };
                until = until.min(Instant::now() + self.wait(&told));
                if !self.tell(told).await {
                    return;
                }
            }
        }
    }

    /// Asks all questions of the source, and waits for the first answers.
    async fn round(&mut self) -> RoundResult {
        let asker = match self.askers.now().await {
            Ok(asker) => asker,
            Err(fault) => return RoundResult::bad(fault),
        };
        let told = match &mut self.known {
            SourceAnswers::Addresses { .. } => RoundResult::default(),
            SourceAnswers::Services(services) => services.take_answer(asker.services(&self.spec.name).await),
        };
        self.has_failed = told.fault.is_some();
        for name in self.known.names(&self.spec) {
            let asker = asker.clone();
            self.questions.ask(name, |name| async move { asker.addresses(&name).await });
        }
        told.and(self.first_answers().await)
    }

    /// Waits for the first answer to each question. After the very first answer it waits [`OTHER_NAMES`] at
    /// most.
    async fn first_answers(&mut self) -> RoundResult {
        let mut told = RoundResult::default();
        let mut until: Option<Instant> = None;
        while self.questions.has_unanswered() {
            let next = self.questions.next();
            let answered = match until {
                None => next.await,
                Some(until) => match timeout_at(until, next).await {
                    Ok(answered) => answered,
                    Err(_late) => {
                        told.is_unfinished = true;
                        break;
                    }
                },
            };
            // No task is left although a question is open: a task has panicked.
            let Some(answered) = answered else { break };
            until.get_or_insert_with(|| Instant::now() + OTHER_NAMES);
            told = told.and(self.take_in(answered).unwrap_or_default());
        }
        told
    }

    /// Takes in an answer that came after its round, and further answers within [`TOGETHER`]. Returns `None` if no
    /// answer counts any more.
    async fn late(&mut self, answered: TaskAnswer) -> Option<RoundResult> {
        let mut told = self.take_in(answered);
        let until = Instant::now() + TOGETHER;
        while let Ok(Some(answered)) = timeout_at(until, self.questions.next()).await {
            told = match (told, self.take_in(answered)) {
                (Some(told), Some(more)) => Some(told.and(more)),
                (told, more) => told.or(more),
            };
        }
        let mut told = told?;
        // If a question failed in this round, a later answer to another question does not clear the failure.
        told.is_unfinished |= self.questions.are_open() || self.has_failed;
        Some(told)
    }

    fn take_in(&mut self, answered: TaskAnswer) -> Option<RoundResult> {
        if !self.questions.counts(&answered) {
            return None;
        }
        let (name, part, is_late) = self.questions.settle(answered);
        let told = self.known.host(&name)?.take_in(part, is_late)?;
        self.has_failed |= told.fault.is_some();
        Some(told)
    }

    /// Returns the time until the next round after these answers.
    fn wait(&mut self, told: &RoundResult) -> Duration {
        match (told.ttl, &told.fault) {
            (Some(ttl), None) if told.is_unfinished => self.pace.within(ttl, randomness()),
            (Some(ttl), None) => self.pace.after_answer(ttl, randomness()),
            (Some(ttl), Some(_)) => {
                self.pace.after_failure(randomness()).min(self.pace.within(ttl, randomness()))
            }
            (None, _) => self.pace.after_failure(randomness()),
        }
    }

    /// Reports the known addresses and the result of these answers. Returns `false` if the receiver is gone.
    async fn tell(&mut self, told: RoundResult) -> bool {
        let RoundResult { ttl, fault, is_unfinished } = told;
        self.reports.rest(self.known.is_closed());
        let (found, outcome) = match (self.known.set(), fault) {
            (Ok(found), None) if is_unfinished => (Some(found), LookOutcome::Unfinished),
            (Ok(found), None) => (Some(found), LookOutcome::Good),
            (Ok(found), Some(fault)) if ttl.is_some() => (Some(found), LookOutcome::Partly(fault.into())),
            (Ok(found), Some(fault)) => (Some(found), LookOutcome::Failed(fault.into())),
            // The source never had a usable answer: report the fault of the last round, if that round has a fault.
            (Err(empty), fault) => (None, LookOutcome::Failed(fault.unwrap_or(empty).into())),
        };
        self.reports.tell(found, outcome).await
    }
}

/// The open questions. Each name has at most one question without any answer and one question for a late
/// family.
#[derive(Default)]
struct OpenQuestions {
    tasks: JoinSet<TaskAnswer>,
    unanswered: HashSet<Arc<str>>,
    late: HashMap<Arc<str>, AbortHandle>,
}

/// The result of the task for one question.
struct TaskAnswer {
    name: Arc<str>,
    part: Part,
    /// The answer of the other family, if it has not come yet.
    late: Option<Late>,
    is_late: bool,
}

impl OpenQuestions {
    /// Starts a question for a name, unless an earlier question for the name has no answer yet.
    fn ask<F>(&mut self, name: Arc<str>, question: impl FnOnce(Arc<str>) -> F)
    where
        F: Future<Output = (Part, Option<Late>)> + Send + 'static,
    {
        if self.unanswered.insert(Arc::clone(&name)) {
            let question = question(Arc::clone(&name));
            self.tasks.spawn(async move {
                let (part, late) = question.await;
                TaskAnswer { name, part, late, is_late: false }
            });
        }
    }

    fn has_unanswered(&self) -> bool {
        !self.unanswered.is_empty()
    }

    fn are_open(&self) -> bool {
        !self.tasks.is_empty()
    }

    /// Waits for the next answer. Returns `None` if no question is open.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    async fn next(&mut self) -> Option<TaskAnswer> {
        loop {
            match self.tasks.join_next().await? {
                Ok(answered) => return Some(answered),
                Err(error) if error.is_cancelled() => {}
                // A task panicked, which is logged. The name of the task is not known, so all names may be asked again.
                Err(_) => {
                    self.unanswered.clear();
                    self.late.clear();
                }
            }
        }
    }

    /// Removes an answered question, and starts a task that waits for its late family. If an earlier question for the
    /// name is late too, only the earlier task stays: it is answered sooner, if at all. An answer without a late family
    /// ends the earlier task.
    fn settle(&mut self, answered: TaskAnswer) -> (Arc<str>, Part, bool) {
        let TaskAnswer { name, part, late, is_late } = answered;
        if is_late {
            self.late.remove(&name);
            return (name, part, is_late);
        }
        self.unanswered.remove(&name);
        match late {
            None => {
                if let Some(earlier) = self.late.remove(&name) {
                    earlier.abort();
                }
            }
            Some(_) if self.late.contains_key(&name) => {}
            Some(late) => {
                let of = Arc::clone(&name);
                let task = self.tasks.spawn(async move {
                    let part = late.await;
                    TaskAnswer { name: of, part, late: None, is_late: true }
                });
                self.late.insert(Arc::clone(&name), task);
            }
        }
        (name, part, is_late)
    }

    /// Returns true if an answer counts. A late answer does not count if a complete answer has come in the
    /// meantime.
    fn counts(&self, answered: &TaskAnswer) -> bool {
        !answered.is_late || self.late.contains_key(&answered.name)
    }
}

/// The last answers of a source.
enum SourceAnswers {
    Addresses { host: HostAnswers, port: u16 },
    Services(SrvAnswers),
}

impl SourceAnswers {
    fn new(spec: &DnsSpec) -> Self {
        match spec.records {
            RecordKind::Addresses { port } => Self::Addresses { host: HostAnswers::default(), port },
            RecordKind::Services => Self::Services(SrvAnswers::default()),
        }
    }

    /// Returns the names whose addresses a round asks for. The target of an SRV record is a whole name, for which no
    /// search list applies.
    fn names(&self, spec: &DnsSpec) -> Vec<Arc<str>> {
        match self {
            Self::Addresses { .. } => vec![Arc::clone(&spec.name)],
            Self::Services(services) => {
                services.targets().iter().map(|target| format!("{target}.").into()).collect()
            }
        }
    }

    /// Returns the last answers for a name, or `None` if the name is no longer a target.
    fn host(&mut self, name: &str) -> Option<&mut HostAnswers> {
        match self {
            Self::Addresses { host, .. } => Some(host),
            Self::Services(services) => services.host(name.strip_suffix('.').unwrap_or(name)),
        }
    }

    /// Returns true if the source states that its service is not available (RFC 2782).
    fn is_closed(&self) -> bool {
        matches!(self, Self::Services(services) if services.is_closed())
    }

    fn set(&self) -> Result<DiscoveredSet, DnsFault> {
        match self {
            Self::Addresses { host, port } => set(host.backends(*port)),
            Self::Services(services) => services.set(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::discover::DnsAnswer;

    fn answered(late: Option<Late>) -> (Part, Option<Late>) {
        let answer = || Ok(DnsAnswer { records: vec![[10, 0, 0, 1].into()], ttl: Duration::ZERO });
        let v6 = late.is_none().then(answer);
        (Part { name: "a.".into(), v4: Some(answer()), v6 }, late)
    }

    fn pending() -> Option<Late> {
        Some(Box::pin(std::future::pending()))
    }

    async fn ask(questions: &mut OpenQuestions, late: Option<Late>) {
        questions.ask("a".into(), |_| async move { answered(late) });
        let next = questions.next().await.unwrap();
        questions.settle(next);
    }

    #[tokio::test]
    async fn a_whole_answer_ends_an_earlier_question_that_is_late() {
        let mut questions = OpenQuestions::default();
        ask(&mut questions, pending()).await;
        assert!(questions.are_open());
        ask(&mut questions, pending()).await;
        assert_eq!(questions.tasks.len(), 1, "of two late questions the earlier one stays");
        ask(&mut questions, None).await;
        assert!(questions.next().await.is_none(), "the late question has ended");
        assert!(questions.late.is_empty());
    }

    #[tokio::test]
    async fn a_late_answer_that_waits_does_not_count_behind_a_whole_one() {
        let mut questions = OpenQuestions::default();
        let (part, _) = answered(None);
        let late = TaskAnswer { name: "a".into(), part, late: None, is_late: true };
        assert!(!questions.counts(&late));
        ask(&mut questions, pending()).await;
        assert!(questions.counts(&late));
    }

    #[tokio::test]
    async fn a_question_that_panics_is_asked_again() {
        let mut questions = OpenQuestions::default();
        questions.ask("a".into(), |_| async { panic!("a fault of ours") });
        assert!(questions.next().await.is_none());
        assert!(!questions.has_unanswered());
        ask(&mut questions, None).await;
    }
}
