//! The reasons for which the incumbent refuses, each with what to do.

use std::time::Duration;

use crate::wire::handover::Refused;

/// A hand-over is under way.
pub(crate) fn under_way(successor: u32, age: Duration) -> Refused {
    refused(format!(
        "a hand-over to process {successor} began {} s ago: run the command again when `pointsman status` shows its end",
        age.as_secs()
    ))
}

/// A reload is under way.
pub(crate) fn reloading() -> Refused {
    refused(
        "a reload of the configuration is under way: run the command again after it; the log has a line at its end"
            .to_owned(),
    )
}

/// The process has not started yet.
pub(crate) fn starting() -> Refused {
    refused("the running program is still starting: run the command again when it serves".to_owned())
}

/// The process ends.
pub(crate) fn stopping() -> Refused {
    refused(
        "the running program drains its connections and ends: start the new program with `pointsman run FILE`, or with \
         `systemctl start pointsman`"
            .to_owned(),
    )
}

/// The successor is not in the service of the incumbent.
pub(crate) fn other_service(pid: u32) -> Refused {
    refused(format!(
        "the running program (pid {pid}) is a service in another control group, and the service manager accepts no main \
         process from outside: use `systemctl reload pointsman`"
    ))
}

/// A pool is paused.
pub(crate) fn paused(pool: &str) -> Refused {
    refused(format!(
        "pool {pool} is paused, and the clients that wait could not be resumed in the new program: run `pointsman resume \
         {pool}`, or wait for the end of the pause, and run the command again"
    ))
}

/// No descriptor is free for the session.
pub(crate) fn no_descriptor() -> Refused {
    refused(
        "the running program has no free descriptor: raise its limit (LimitNOFILE=), or run the command again when it has \
         fewer connections"
            .to_owned(),
    )
}

/// The successor may open too few descriptors.
pub(crate) fn few_descriptors(allowed: u64, needed: u64) -> Refused {
    refused(format!(
        "the new program may open {allowed} descriptors, and the open connections and sockets need {needed}: start it with \
         a higher limit, such as `ulimit -n {needed}`, or LimitNOFILE= of its unit"
    ))
}

fn refused(reason: String) -> Refused {
    Refused { reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_names_what_to_do() {
        let all = [
            under_way(4711, Duration::from_millis(2500)),
            reloading(),
            starting(),
            stopping(),
            few_descriptors(1024, 4000),
            other_service(812),
            no_descriptor(),
            paused("db"),
        ];
        for refusal in &all {
            let words = ["run the command again", "pointsman run", "ulimit -n", "systemctl reload"];
            assert!(words.iter().any(|word| refusal.reason.contains(word)), "{}", refusal.reason);
        }
        assert!(all[0].reason.contains("a hand-over to process 4711 began 2 s ago"), "{}", all[0].reason);
        assert!(all[4].reason.contains("1024") && all[4].reason.contains("4000"), "{}", all[4].reason);
    }
}
