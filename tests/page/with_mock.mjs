// The page with answers that a real program gives rarely: hostile names, many backends, failures.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { mock, open } from './fixture.mjs';
import { Answer } from './mock.mjs';
import * as values from './values.mjs';

const SIZES = { narrow: [360, 780], middle: [1280, 900], wide: [1920, 1080] };

for (const [name, [width, height]] of Object.entries(SIZES)) {
  test(`an incident, ${width} px wide`, async (t) => {
    const server = await mock(t, values.answers());
    const page = await open(t, server.origin, { viewport: { width, height } });
    await page.headline('3 problems');
    await page.tab.locator('#top tbody').first().waitFor();
    await page.tab.locator('#connections summary').click();
    await page.tab.locator('#list tbody tr').first().waitFor();
    await page.accessible(`an incident, ${width} px`);
    for (const colorScheme of ['light', 'dark']) {
      await page.tab.emulateMedia({ colorScheme });
      await page.screenshot(`incident-${name}-${colorScheme}`, { fullPage: true });
    }
    // The worst comes first, and each state has a word and a sign of its own.
    const pools = await page.tab.locator('.pool h3').allTextContents();
    assert.deepEqual(pools, ['app', 'db', 'mail', 'web']);
    const signs = new Map();
    for (const state of await page.tab.locator('.backends tbody .state:has(.muted)').all()) {
      signs.set((await state.textContent()).match(/^[a-z]+/)[0], await state.locator('path').getAttribute('d'));
    }
    assert.deepEqual([...signs.keys()].sort(), ['down', 'draining', 'ejected', 'maintenance', 'up']);
    assert.equal(new Set(signs.values()).size, 5);
    await page.end();
  });
}

test('a thousand backends', async (t) => {
  const server = await mock(t, values.answers({ '/api/v1/status': values.many(1_000, 20) }));
  const page = await open(t, server.origin);
  await page.headline('11 problems');
  const rows = page.tab.locator('.backends tbody tr');
  const texts = () => rows.locator('th b').allTextContents();
  assert.equal(await page.tab.locator('.problems > li').count(), 10, 'the rest of the page stays in view');
  await page.tab.getByRole('button', { name: 'Next problems' }).click();
  assert.equal(await page.tab.locator('.problems > li').count(), 1);
  // Backends that are well are a number, until they are asked for.
  assert.deepEqual(await texts(), [
    'b-5',
    'b-102',
    'b-199',
    'b-296',
    'b-393',
    'b-490',
    'b-587',
    'b-684',
    'b-781',
    'b-878',
    'b-975',
  ]);
  await page.accessible('many');
  await page.screenshot('many', { fullPage: true });
  await page.tab.getByRole('button', { name: 'Show 49 up of pool-0', exact: true }).click();
  assert.ok((await rows.count()) <= 50, `${await rows.count()} rows`);
  await page.tab.getByRole('button', { name: 'Next rows' }).click();
  assert.equal((await page.tab.locator('.pool h3').allTextContents())[0], 'pool-0', 'a page begins with the name of its pool');
  // Filters and orders are about all backends, on all pages.
  await page.tab.locator('#filters').getByLabel('Backend').fill('b-99');
  await page.tab.locator('#matched').getByText('2 pools, 11 of 1,000 backends').waitFor();
  assert.deepEqual(await texts(), [
    'b-990',
    'b-991',
    'b-992',
    'b-993',
    'b-994',
    'b-995',
    'b-996',
    'b-997',
    'b-998',
    'b-999',
    'b-99',
  ]);
  await page.tab.locator('#filters').getByLabel('Backend').fill('');
  await page.tab.locator('#filters').getByLabel('State').selectOption('up');
  await page.tab.locator('#matched').getByText('989 of 1,000').waitFor();
  assert.equal((await rows.count()) + (await page.tab.locator('.pool').count()), 50);
  await page.tab.getByText('rows: 1 to 50 of 1,009').waitFor();
  await page.tab.locator('#filters').getByLabel('Order').selectOption('open');
  await page.tab.locator('#filters').getByLabel('Pool').fill('POOL-19');
  await page.tab.locator('#matched').getByText('1 pool, 49 of 1,000').waitFor();
  const open_ = await rows.locator('.open').allTextContents();
  assert.equal(open_.length, 49);
  assert.deepEqual(
    open_.map(Number),
    open_.map(Number).sort((a, b) => b - a),
  );
  await page.tab.locator('#filters').getByLabel('Pool').fill('nothing');
  await page.tab.locator('#matched').getByText('0 pools, 0 of 1,000').waitFor();
  await page.end();
});

/** Names that would be markup, change the direction of text, or break a layout. Each has its form on the page. */
const HOSTILE = {
  '<img src=x onerror="window.hostile=1">': '<img src=x onerror="window.hostile=1">',
  '"><script>window.hostile=1</script>': '"><script>window.hostile=1</script>',
  "javascript:window.hostile=1//'": "javascript:window.hostile=1//'",
  '\u202e\u2066moc.live\u200f': '\\u{202e}\\u{2066}moc.live\\u{200f}',
  'a\u0000b\u001b[31m\u0085\u200bc\ufeff': 'a\\u{0}b\\u{1b}[31m\\u{85}\\u{200b}c\\u{feff}',
  __proto__: '__proto__',
  '\ud800': '\\u{d800}',
  'ﷺ שלום العربية': 'ﷺ שלום العربية',
};

/** Puts a text into each place of the API that can have a text from outside. */
function hostile(names) {
  const status = values.incident();
  names.forEach((name) => {
    const one = values.backend(name, {
      address: name,
      zone: name,
      state: 'down',
      reason: name,
      checks: { heard: name, failed: 1 },
    });
    status.pools.push(
      values.pool(name, [one], { balance: name, discovery: [{ source: name, last_success: null, failures: 1, fault: name }] }),
    );
    status.problems.push({ kind: 'backend', name, text: name, since: null, command: `pointsman connections --pool ${name}` });
    status.events.unshift(values.event(1, 'error', name));
    status.overrides.push({
      kind: 'state',
      pool: name,
      backend: name,
      value: 'drain',
      since: status.started,
      by: name,
      ends_in_seconds: null,
      open: 1,
      waiting: 0,
    });
    status.listeners.push({
      name,
      addresses: [name],
      protocol: name,
      routes: 1,
      proxy_protocol: name,
      connections: { open: 0 },
    });
  });
  const list = values.connections(0);
  list.connections = names.map((name, at) => ({
    ...values.connections(1).connections[0],
    id: at + 1,
    client: name,
    sni: name,
    pool: name,
    backend: name,
    stage: name,
  }));
  const top = values.top();
  for (const part of ['names', 'unknown_names', 'sources'])
    top[part].top = names.map((name) => ({ name, connections: 7, error: 0 }));
  return values.answers({ '/api/v1/status': status, '/api/v1/top': top, '/api/v1/connections': list });
}

test('hostile names', async (t) => {
  const long = 'l'.repeat(255);
  const server = await mock(t, hostile([...Object.keys(HOSTILE), long]));
  for (const [width, height] of Object.values(SIZES)) {
    const page = await open(t, server.origin, { viewport: { width, height } });
    await page.headline(/problems/);
    await page.tab.locator('#top tbody').first().waitFor();
    await page.tab.locator('#connections summary').click();
    await page.tab.locator('#list tbody tr').first().waitFor();
    for (const part of [
      '#pools h3',
      '#pools th b',
      '#events .text',
      '#top th',
      '#list td',
      '#listeners th',
      '#overrides th',
      '#problems .text',
    ]) {
      const texts = await page.tab.locator(part).allTextContents();
      if (part.startsWith('#problems')) {
        await page.tab.getByRole('button', { name: 'Next problems' }).click();
        texts.push(...(await page.tab.locator(part).allTextContents()));
        await page.tab.getByRole('button', { name: 'Previous problems' }).click();
      }
      for (const shown of [...Object.values(HOSTILE), long])
        assert.ok(
          texts.some((text) => text.includes(shown)),
          `${shown} is not in ${part}`,
        );
    }
    assert.equal(await page.tab.evaluate(() => window.hostile), undefined);
    assert.equal(await page.tab.locator('main img, main script, main iframe').count(), 0);
    await page.accessible(`hostile names, ${width} px`);
    await page.screenshot(`hostile-${width}`, { fullPage: true });
    // The copy of a command is exactly its text.
    await page.context.grantPermissions(['clipboard-read', 'clipboard-write']);
    const copy = page.tab.locator('#problems .command').filter({ hasText: '1b' });
    if ((await copy.count()) === 0) await page.tab.getByRole('button', { name: 'Next problems' }).click();
    await copy.getByRole('button').click();
    await page.tab.locator('#said').getByText('Copied').waitFor();
    assert.equal(await page.tab.evaluate(() => navigator.clipboard.readText()), await copy.locator('code').textContent());
    // A change names what the server named, byte for byte.
    await page.tab.getByRole('button', { name: 'Change <img' }).click();
    await page.tab.getByRole('dialog').getByRole('button', { name: 'Change' }).click();
    await page.until('the change', () => server.changes.length > 0);
    const { url } = server.changes.pop();
    const sent = new URLSearchParams(url.split('?')[1]);
    assert.equal(sent.get('pool'), '<img src=x onerror="window.hostile=1">');
    await page.end([/404/]);
  }
});

test('the policy stops what would be markup or code', async (t) => {
  const server = await mock(t, values.answers());
  const page = await open(t, server.origin);
  await page.headline(/problem/);
  const attempts = await page.tab.evaluate(async () => {
    const attempt = (act) => {
      try {
        act();
        return 'done';
      } catch (error) {
        return error.name;
      }
    };
    const element = document.body.appendChild(document.createElement('p'));
    const results = {
      innerHTML: attempt(() => {
        element.innerHTML = '<b>x</b>';
      }),
      script: attempt(() => {
        document.body.appendChild(document.createElement('script')).text = 'window.hostile = 1';
      }),
      policy: attempt(() => trustedTypes.createPolicy('default', { createHTML: (text) => text })),
      handler: attempt(() => {
        element.setAttribute('onclick', 'window.hostile = 1');
        element.click();
      }),
      style: attempt(() => element.setAttribute('style', 'position: fixed')),
    };
    results.position = getComputedStyle(element).position;
    results.elsewhere = await fetch('http://127.0.0.2:1/', { mode: 'no-cors' }).then(
      () => 'done',
      (error) => error.name,
    );
    results.hostile = String(window.hostile);
    return results;
  });
  assert.deepEqual(attempts, {
    innerHTML: 'TypeError',
    script: 'TypeError',
    policy: 'TypeError',
    handler: 'TypeError',
    style: 'done',
    position: 'static',
    elsewhere: 'TypeError',
    hostile: 'undefined',
  });
  const violated = await page.tab.evaluate(() => window.violations);
  for (const directive of ['require-trusted-types-for', 'trusted-types', 'style-src-attr', 'connect-src']) {
    assert.ok(
      violated.some((violation) => violation.startsWith(directive)),
      `${directive}: ${violated.join('\n')}`,
    );
  }
});

test('a page with faults does not pass', async (t) => {
  const server = await mock(t, values.answers());
  const { text } = server;
  const fails = async (change, expression) => {
    server.text = change(text);
    assert.notEqual(server.text, text);
    const page = await open(t, server.origin);
    await page.headline(/problem/);
    await assert.rejects(
      async () => {
        await page.accessible('a fault');
        await page.end();
      },
      expression,
      String(expression),
    );
  };
  await fails((page) => page.replace('<body', '<body onload="run()"'), /violations of the policy/);
  await fails((page) => page.replace('<main>', '<main onclick="run()">'), /handlers in attributes/);
  await fails((page) => page.replace('<main>', '<main style="color: red">'), /violations of the policy/);
  await fails((page) => page.replace('<main>', '<main><img src="x.png" alt="x">'), /violations of the policy/);
  await fails((page) => page.replace('<main>', '<main><script>run()</script>'), /violations of the policy/);
  await fails((page) => page.replace('<main>', '<main><input>'), /Form elements must have labels/);
  await fails((page) => page.replace('<main>', '<main><svg width="3000" height="9"></svg>'), /px wide, and the window/);
  server.text = text;
});

test('endpoints that are missing', async (t) => {
  const server = await mock(t, values.answers({ '/api/v1/history': undefined, '/api/v1/top': undefined }));
  const page = await open(t, server.origin);
  await page.headline('3 problems');
  await page.tab.getByText('This server keeps no history.').waitFor();
  await page.tab.getByText('This server does not count names and sources.').waitFor();
  await page.rounds(2);
  const asked = (path) => server.requests.filter(({ url }) => url.startsWith(path)).length;
  assert.deepEqual([asked('/api/v1/history'), asked('/api/v1/top')], [1, 1], 'they are not asked again');
  await page.accessible('missing endpoints');
  await page.end([/404 \(Not Found\)/]);
});

test('a program that has just started', async (t) => {
  const status = values.status([], {
    life: 'starting',
    listeners: [],
    events: [],
    problems: [
      {
        kind: 'process',
        name: '',
        text: 'it starts, and takes no connections yet',
        since: new Date().toISOString(),
        command: null,
      },
    ],
  });
  const empty = { connections: 0, slots: 896, error_bound: 0, top: [] };
  const answers = {
    '/api/v1/status': status,
    '/api/v1/history': values.history(0),
    '/api/v1/top': { since: status.started, workers_silent: 1, names: empty, unknown_names: empty, sources: empty },
  };
  const server = await mock(t, values.answers(answers));
  const page = await open(t, server.origin);
  await page.headline('1 problem');
  await page.tab.getByText('No second has passed yet.').waitFor();
  await page.tab.getByText('1 worker did not answer in time').waitFor();
  await page.accessible('a start');
  server.answers['/api/v1/history'] = values.history(7);
  await page.tab.locator('.plot').first().waitFor();
  const path = await page.tab.locator('.plot path.one').first().getAttribute('d');
  assert.match(path, /^M593 /, 'seven seconds are at the right');
  await page.accessible('seven seconds');
  await page.end();
});

test('a hidden page asks for nothing', async (t) => {
  const server = await mock(t, values.answers());
  const page = await open(t, 'about:blank');
  await page.tab.clock.install();
  await page.tab.addInitScript(() => Object.defineProperty(document, 'hidden', { get: () => window.isHidden ?? false }));
  await page.tab.goto(server.origin);
  const turn = (isHidden) =>
    page.tab.evaluate((value) => {
      window.isHidden = value;
      document.dispatchEvent(new Event('visibilitychange'));
    }, isHidden);
  const rounds = () => server.requests.filter(({ url }) => url === '/api/v1/history').length;
  const wholeRounds = (number) => page.until(`${number} rounds`, () => rounds() === number);
  await wholeRounds(1);
  await page.tab.locator('#top tbody').first().waitFor();
  await page.tab.clock.runFor(2_100);
  await wholeRounds(2);
  await page.tab.locator('.plot').first().waitFor();
  await turn(true);
  await page.tab.clock.runFor(60_000);
  assert.equal(rounds(), 2, 'while it is hidden');
  await turn(false);
  await wholeRounds(3);
  await page.tab.getByLabel('live').uncheck();
  await page.tab.clock.runFor(60_000);
  assert.equal(rounds(), 3, 'while live is off');
  await page.tab.getByLabel('live').check();
  await wholeRounds(4);
  await page.end();
});

test('requests come one after the other', async (t) => {
  const server = await mock(t, values.answers());
  let [now, most] = [0, 0];
  server.server.on('request', (_, answer) => {
    now += 1;
    most = Math.max(most, now);
    answer.on('close', () => {
      now -= 1;
    });
  });
  const page = await open(t, server.origin);
  await page.headline('3 problems');
  await page.tab.locator('#connections summary').click();
  await page.rounds(2);
  assert.equal(most, 1);
  assert.ok(server.requests.length > 8, 'requests were seen');
  await page.end();
});

test('nothing moves while the values change', async (t) => {
  const server = await mock(t, values.answers());
  const statuses = Array.from({ length: 5 }, (_, at) => {
    const status = values.incident();
    status.connections.open = 10 ** at;
    status.pools.forEach((pool) =>
      pool.backends.forEach((backend) => {
        Object.assign(backend.connections, { active: 7 ** at, total: 9 ** at });
        backend.checks.passed = 8 ** at;
      }),
    );
    return status;
  });
  let round = 0;
  server.answers['/api/v1/status'] = () => {
    round += 1;
    return statuses[round % 5];
  };
  server.answers['/api/v1/history'] = () => values.history(600, round + 1);
  const page = await open(t, server.origin, { viewport: { width: 1920, height: 1080 } });
  await page.headline('3 problems');
  await page.rounds(1);
  const places = () =>
    page.tab.evaluate(() =>
      [...document.querySelectorAll('section, tr, th, td, li, button, input, .plot, .pool, h2, h3')].map((element) => {
        const { x, y, width, height } = element.getBoundingClientRect();
        return `${element.tagName} ${element.id} ${x} ${y} ${width} ${height}`;
      }),
    );
  const before = await places();
  await page.tab.evaluate(() => {
    window.shifts.length = 0;
  });
  await page.rounds(4);
  assert.deepEqual(await places(), before);
  assert.ok(before.length > 100, `${before.length} places`);
  // A number that grows moves its own first digit, and nothing else.
  const shifted = await page.tab.evaluate(() => window.shifts.reduce((sum, shift) => sum + shift, 0));
  assert.ok(shifted < 0.01, String(shifted));
  await page.end();
});

test('a server whose clock is an hour behind', async (t) => {
  const answers = values.answers();
  const shifted = JSON.parse(JSON.stringify(answers['/api/v1/status']), (key, value) =>
    ['time', 'since', 'loaded'].includes(key) && value ? new Date(Date.parse(value) - 3_600_000).toISOString() : value,
  );
  const server = await mock(t, { ...answers, '/api/v1/status': shifted });
  server.server.prependListener('request', (_, answer) =>
    answer.setHeader('date', new Date(Date.now() - 3_600_000).toUTCString()),
  );
  const page = await open(t, server.origin);
  await page.headline('3 problems');
  await page.tab.locator('#events li').filter({ hasText: 'app/app-2 is down' }).getByText(/^3m/).waitFor();
  await page.end();
});

test('the cursor of the charts', async (t) => {
  const history = values.history();
  history.open[598] = 12_345;
  history.ended.refused[598] = 999;
  const server = await mock(t, values.answers({ '/api/v1/history': history }));
  const page = await open(t, server.origin);
  const plot = page.tab.getByRole('slider', { name: /^Open connections/ });
  await plot.focus();
  await page.tab.keyboard.press('ArrowLeft');
  await page.tab.locator('.value').getByText('12,345').waitFor();
  assert.equal(await plot.getAttribute('aria-valuenow'), '598');
  assert.match(await plot.getAttribute('aria-valuetext'), /^\d\d:\d\d:\d\d: open 12,345$/);
  assert.equal(await page.tab.locator('.cursor').count(), 4, 'the cursor is in all charts');
  await page.tab.keyboard.press('Home');
  assert.equal(await plot.getAttribute('aria-valuenow'), '0');
  await page.accessible('a cursor');
  await page.tab.keyboard.press('Tab');
  assert.equal(await page.tab.locator('.cursor').count(), 0);
  await plot.hover({ position: { x: 5, y: 20 } });
  assert.equal(await page.tab.locator('.cursor').count(), 4);
  await page.end();
});

test('a click on a name lists its connections', async (t) => {
  const server = await mock(t, values.answers());
  const page = await open(t, server.origin);
  await page.tab.getByRole('button', { name: '2001:db8:7::' }).click();
  await page.until('the list', () =>
    server.requests.some(({ url }) => url.startsWith('/api/v1/connections?source=2001%3Adb8%3A7%3A%3A%2F64&sort=age&limit=100')),
  );
  await page.tab.getByRole('button', { name: 'mail.example.com' }).click();
  await page.until('the list', () =>
    server.requests.some(({ url }) => url.startsWith('/api/v1/connections?sni=mail.example.com&sort=age')),
  );
  await page.end();
});

test('a copy where the browser has no clipboard for scripts', async (t) => {
  const server = await mock(t, values.answers());
  const page = await open(t, 'about:blank');
  await page.context.grantPermissions(['clipboard-read', 'clipboard-write']);
  // So it is over HTTP at other addresses than loopback.
  await page.tab.addInitScript(() => {
    const { get } = Object.getOwnPropertyDescriptor(Navigator.prototype, 'clipboard');
    window.clipboard = get.call(navigator);
    Object.defineProperty(navigator, 'clipboard', { value: undefined });
  });
  await page.tab.goto(server.origin);
  const name = 'Copy pointsman connections --pool app --backend app-2';
  await page.tab.getByRole('button', { name }).click();
  await page.tab.locator('#said').getByText('Copied').waitFor();
  assert.equal(await page.tab.evaluate(() => window.clipboard.readText()), name.replace('Copy ', ''));
  assert.equal(await page.tab.evaluate(() => document.activeElement.getAttribute('aria-label')), name, 'the focus returns');
  await page.tab.locator('#connections summary').click();
  await page.end();
});

test('a server that is busy', async (t) => {
  const server = await mock(t, values.answers());
  const page = await open(t, server.origin);
  await page.headline('3 problems');
  const status = server.answers['/api/v1/status'];
  server.answers['/api/v1/status'] = new Answer(503, 'too many connections at once\n');
  await page.headline('the server refuses the request');
  await page.tab.locator('#problems').getByText('too many connections at once').waitFor();
  await page.accessible('busy');
  server.answers['/api/v1/status'] = status;
  await page.headline('3 problems');
  await page.end([/503/]);
});

test('a port that nobody listens at, and a server that comes back', async (t) => {
  const server = await mock(t, values.answers());
  const { port } = server;
  const page = await open(t, server.origin);
  await page.headline('3 problems');
  await server.end();
  await page.headline('the server cannot be reached');
  server.server.listen(port, '127.0.0.1');
  await page.headline('3 problems');
  await page.end([/ERR_CONNECTION_REFUSED|ERR_EMPTY_RESPONSE/]);
});
