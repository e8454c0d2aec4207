// Values of the admin API for the mock.

const ago = (seconds) => new Date(Date.now() - seconds * 1000).toISOString();

export function backend(name, more = {}) {
  const { connections, checks, ...rest } = more;
  return {
    name,
    address: '10.0.0.1:443',
    origin: 'configuration',
    weight: 1,
    zone: null,
    backup: false,
    share: 1,
    latency_seconds: 0.0012,
    state: 'up',
    reason: null,
    since_seconds: 11_000,
    connections: { active: 12, waiting: 0, limit: null, total: 5_120, ...connections },
    checks: { passed: 900, failed: 0, not_made: 0, fault: null, heard: null, ...checks },
    troubles: { connects: 0, early_resets: 0 },
    ejection: null,
    agent: null,
    ...rest,
  };
}

export function pool(name, backends, more = {}) {
  return {
    name,
    balance: 'maglev',
    proxy_protocol: null,
    digest: '00112233445566ff',
    panic: false,
    available: backends.filter(({ state }) => state === 'up').length,
    queue: { waiting: 0, length: null },
    tiers: [{ zone: '*', backup: false, weight_up: 1, weight: 1, share: 1 }],
    discovery: [],
    forward: null,
    backends,
    ...more,
  };
}

export const event = (seconds, severity, text, kind = 'backend') => ({ time: ago(seconds), kind, severity, text });

export function status(pools, more = {}) {
  return {
    version: '0.2.0',
    commit: '05bf942',
    host: 'lb-1',
    started: ago(93_784),
    uptime_seconds: 93_784,
    life: 'serving',
    workers: 2,
    connections: { open: 1_204, limit: 40_000 },
    config: { file: '/etc/pointsman/config.toml', loaded: ago(7_200), last_reload: null },
    upgrade: null,
    overrides: [],
    problems: [],
    listeners: [
      {
        name: 'tls',
        addresses: ['192.0.2.1:443', '[2001:db8::1]:443'],
        protocol: 'tls',
        routes: 112,
        proxy_protocol: null,
        connections: { open: 1_180 },
      },
      {
        name: 'mail',
        addresses: ['192.0.2.1:25'],
        protocol: 'smtp',
        routes: 2,
        proxy_protocol: 'require',
        connections: { open: 24 },
      },
    ],
    pools,
    events: [event(30, 'info', 'serving', 'process')],
    ...more,
  };
}

/** Three pools with a problem of each kind that is seen often. */
export function incident() {
  const refused = 'checks failed: connection refused';
  const app = pool('app', [
    backend('app-1', { address: '10.0.1.11:443', connections: { active: 312, total: 90_412 } }),
    backend('app-2', {
      address: '10.0.1.12:443',
      state: 'down',
      reason: refused,
      since_seconds: 190,
      connections: { active: 4 },
      checks: { failed: 14, fault: 'refused' },
    }),
    backend('app-3', {
      address: '10.0.1.13:443',
      state: 'ejected',
      reason: 'clients failed 5 times in a row',
      since_seconds: 12,
      ejection: { trouble: 'connect', seconds_left: 18, in_a_row: 5 },
    }),
  ]);
  const db = pool(
    'db',
    [
      backend('db-1', { address: '10.0.2.11:5432', connections: { active: 40, limit: 200 }, zone: 'eu-1' }),
      backend('db-2', {
        address: '10.0.2.12:5432',
        state: 'draining',
        reason: 'the operator state is drain',
        since_seconds: 600,
        connections: { active: 3 },
        zone: 'eu-2',
      }),
      backend('db-3', { address: '10.0.2.13:5432', backup: true, connections: { active: 0 }, zone: 'eu-2' }),
    ],
    {
      queue: { waiting: 3, length: 100 },
      tiers: [
        { zone: 'eu-1', backup: false, weight_up: 1, weight: 1, share: 1 },
        { zone: '*', backup: true, weight_up: 1, weight: 1, share: 0 },
      ],
    },
  );
  const mail = pool(
    'mail',
    [
      backend('mail-1', { address: '10.0.3.11:25', connections: { active: 20, waiting: 14 } }),
      backend('mail-2', {
        address: '10.0.3.12:25',
        state: 'maintenance',
        reason: 'the operator state is maintenance',
        since_seconds: 86_000,
        connections: { active: 0 },
      }),
    ],
    { balance: 'round_robin' },
  );
  const web = pool('web', [
    backend('web-1', { address: '10.0.4.11:443' }),
    backend('web-2', { address: '10.0.4.12:443', share: 0.4, weight: 5 }),
  ]);
  return status([app, db, mail, web], {
    problems: [
      {
        kind: 'backend',
        name: 'app/app-2',
        text: `down for 190 s, 4 connections open: ${refused}`,
        since: ago(190),
        command: 'pointsman connections --pool app --backend app-2',
      },
      {
        kind: 'backend',
        name: 'app/app-3',
        text: 'ejected for 12 s, 12 connections open: clients failed 5 times in a row',
        since: ago(12),
        command: 'pointsman connections --pool app --backend app-3',
      },
      {
        kind: 'reload',
        name: '',
        text: 'the last reload failed; the earlier configuration stays in force: error[C0301]: there is no pool "mial"\n --> config.toml:4:48',
        since: ago(4_000),
        command: 'pointsman check /etc/pointsman/config.toml',
      },
    ],
    overrides: [
      {
        kind: 'state',
        pool: 'db',
        backend: 'db-2',
        value: 'drain',
        since: ago(600),
        by: 'unix uid=0 pid=4711',
        ends_in_seconds: 6_600,
        open: 3,
        waiting: 3,
      },
      {
        kind: 'log',
        pool: null,
        backend: null,
        value: 'debug',
        since: ago(60),
        by: '127.0.0.1:51234 with the token',
        ends_in_seconds: null,
        open: null,
        waiting: null,
      },
    ],
    events: [
      event(12, 'warning', 'backend app/app-3 is ejected: clients failed 5 times in a row'),
      event(190, 'error', `backend app/app-2 is down: ${refused}`),
      event(600, 'info', 'state of db/db-2 is drain, by unix uid=0 pid=4711', 'override'),
      event(4_000, 'error', 'not reloaded: there is no pool "mial"', 'reload'),
      event(
        86_000,
        'info',
        'connection 4711 of client 203.0.113.7:51234 at listener tls was closed, by unix uid=0 pid=12',
        'connections',
      ),
      event(93_784, 'info', 'serving', 'process'),
    ],
  });
}

/** Many backends in pools of equal size; each 97th backend is down. */
export function many(backends, pools) {
  const size = backends / pools;
  const one = (number) =>
    backend(`b-${number}`, {
      address: `10.${Math.floor(number / 250)}.0.${number % 250}:443`,
      connections: { active: number % 89 },
      ...(number % 97 === 5 ? { state: 'down', reason: 'checks failed: timeout', since_seconds: number } : {}),
    });
  const all = Array.from({ length: pools }, (_, at) =>
    pool(
      `pool-${at}`,
      Array.from({ length: size }, (__, index) => one(at * size + index)),
    ),
  );
  const down = all.flatMap((each) =>
    each.backends.filter(({ state }) => state === 'down').map(({ name }) => `${each.name}/${name}`),
  );
  const problems = down.map((name) => ({
    kind: 'backend',
    name,
    text: 'down for 60 s, 0 connections open',
    since: ago(60),
    command: `pointsman connections --pool ${name.split('/')[0]}`,
  }));
  return status(all, { problems });
}

/** Ten minutes of history with a rise, a gap and a burst of failures. */
export function history(length = 600, seed = 1) {
  let value = seed;
  const random = () => {
    value = (value * 48271) % 2147483647;
    return value / 2147483647;
  };
  const series = (make) => Array.from({ length }, (_, at) => Math.max(0, Math.round(make(at))));
  const load = (at) => 1 + Math.sin(at / 70) * 0.25 + (at > 400 ? 0.5 : 0) + random() * 0.12;
  const few = (rate) => series(() => random() < rate);
  return {
    interval_seconds: 1,
    end: new Date().toISOString(),
    open: series((at) => 800 * load(at)),
    accepted: series((at) => 40 * load(at)),
    from_client_bytes: series((at) => 2_400_000 * load(at)),
    from_backend_bytes: series((at) => 9_100_000 * load(at)),
    ended: {
      fin: series((at) => 36 * load(at)),
      client_reset: few(0.3),
      backend_reset: few(0.06),
      lost: few(0.02),
      timeout: few(0.1),
      refused: series((at) => (at > 405 && at < 440 ? 20 * random() : 0)),
      unreachable: few(0.01),
      unavailable: few(0),
      client_gone: few(0.2),
      closed: few(0.01),
    },
  };
}

const counted = (names, connections) => ({
  connections,
  slots: 1_000,
  top: names.map((name, at) => ({ name, connections: Math.round(connections / (at + 2)), error: at > 1 ? at * 7 : 0 })),
});

export const top = () => ({
  since: ago(93_784),
  workers_silent: 0,
  names: counted(
    ['mail.example.com', 'shop.example.com', 'a-rather-long-name.with.many.labels.apps.example.com', 'db.example.com'],
    412_000,
  ),
  unknown_names: counted(['old.example.com', 'wp-login.example.com'], 312),
  sources: counted(['203.0.113.9', '198.51.100.7', '2001:db8:7::'], 412_312),
});

export const connections = (number = 3) => ({
  open: 1_204,
  matched: number,
  cut: false,
  silent_workers: 0,
  connections: Array.from({ length: number }, (_, at) => ({
    id: 4_711 + at,
    client: `203.0.113.${at % 250}:51234`,
    listener: 'tls',
    stage: 'relaying',
    pool: 'db',
    backend: 'db-1',
    sni: 'db.example.com',
    route: 'db',
    age_seconds: 3_725.5 - at,
    idle_seconds: 1.5,
    from_client_bytes: 517,
    from_backend_bytes: 5_242_880,
    bytes_per_second: 2_048,
  })),
});

export const ACCESS = { may_change: true, needs: null };

/** Answers of a server in an incident, where changes are allowed. */
export const answers = (more = {}) => ({
  '/api/v1/access': ACCESS,
  '/api/v1/status': incident(),
  '/api/v1/history': history(),
  '/api/v1/top': top(),
  '/api/v1/connections': connections(),
  ...more,
});
