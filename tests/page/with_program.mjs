// The page of a real pointsman.

import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';

import { balanced, open, run, runIn, start, throughTunnel } from './fixture.mjs';
import { client, echo } from './program.mjs';

const row = (page, backend) => page.tab.locator('.backends tbody tr').filter({ hasText: backend });
const stateOverride = async (program) =>
  (await program.ask('/api/v1/overrides')).map(({ kind, pool, backend, value }) => `${kind} ${pool}/${backend} ${value}`);

test('a program that is well', async (t) => {
  const { program } = await start(t);
  const clients = [await client(await program.port('main')), await client(await program.port('main'))];
  t.after(() => clients.forEach((socket) => socket.destroy()));
  const page = await open(t, await throughTunnel(t, program));
  await page.headline('all is well');
  assert.match(await page.tab.title(), /^all is well · .+ · pointsman$/);
  assert.equal(await page.tab.locator('.backends tbody tr').count(), 3);
  await page.tab.locator('#pools').getByText('2 open').waitFor();
  await page.tab.locator('#right').getByText('changes allowed').waitFor();
  await page.tab.locator('#events').getByText('serving').waitFor();
  await page.tab.locator('#listeners').getByText('main').waitFor();
  await page.rounds(1);
  await page.accessible('well');
  await page.screenshot('well');
  assert.deepEqual(new Set(page.requests.map(({ method }) => method)), new Set(['GET']), 'to look changes nothing');
  await page.end();
});

test('a program with a thousand backends', async (t) => {
  const pools = Array.from({ length: 20 }, (_, pool) => {
    const backends = Array.from({ length: 50 }, (__, at) => `"127.0.${pool}.${at + 1}:9"`).join(', ');
    return `[listener.l${pool}]\nbind = "127.0.0.1:0"\npool = "p${pool}"\n[pool.p${pool}]\nbackends = [${backends}]\nhealth.check = "off"\n`;
  });
  const program = await run(t, `[admin]\nlisten = "unix:FOLDER/admin.sock"\n${pools.join('')}`);
  const page = await open(t, await throughTunnel(t, program));
  await page.headline('all is well');
  await page.tab.locator('#matched').getByText('20 pools, 1,000 backends').waitFor();
  assert.equal(await page.tab.locator('.backends tbody tr').count(), 0, 'those that are well are a number');
  await page.tab.locator('#filters').getByLabel('Backend').fill('127.0.7.33');
  await page.tab.getByRole('button', { name: 'Change p7/127.0.7.33:9' }).click();
  await page.tab.getByRole('dialog').getByRole('button', { name: 'Change' }).click();
  await row(page, '127.0.7.33').getByText('draining').waitFor();
  assert.deepEqual(await stateOverride(program), ['state p7/127.0.7.33:9 drain']);
  await page.accessible('a thousand backends');
  // A tunnel may be slow.
  const sizes = await page.tab.evaluate(() =>
    performance
      .getEntriesByType('resource')
      .filter(({ name }) => name.endsWith('/status'))
      .map(({ encodedBodySize, decodedBodySize }) => [encodedBodySize, decodedBodySize]),
  );
  assert.ok(sizes.length > 0 && sizes.every(([sent, read]) => sent < 100_000 && read > 500_000), JSON.stringify(sizes));
  await page.end();
});

test('a drain by click, and its end', async (t) => {
  const { program } = await start(t);
  const page = await open(t, await throughTunnel(t, program));
  await page.tab.getByRole('button', { name: 'Change app/b2' }).click();
  const dialog = page.tab.getByRole('dialog');
  await dialog.getByText('no new connections go to it').waitFor();
  await dialog.getByLabel('For').fill('2h');
  await dialog.getByText('pointsman drain app/b2 --for 2h', { exact: true }).waitFor();
  await page.accessible('dialog');
  await page.screenshot('dialog');
  await dialog.getByRole('button', { name: 'Change' }).click();
  await row(page, 'b2').getByText('draining').waitFor();
  assert.deepEqual(await stateOverride(program), ['state app/b2 drain']);
  await row(page, 'b2')
    .getByText(/ends in 1h 59m/)
    .waitFor();
  await page.tab.getByRole('button', { name: 'End state app/b2' }).click();
  await row(page, 'b2').getByText('up', { exact: false }).waitFor();
  await page.until('the end of the override', async () => (await stateOverride(program)).length === 0);
  await page.end();
});

test('a drain and its end with the keyboard alone', async (t) => {
  const { program } = await start(t);
  const page = await open(t, await throughTunnel(t, program));
  await page.tab.getByRole('button', { name: 'Change app/b1' }).waitFor();
  const focused = () =>
    page.tab.evaluate(
      () => document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent.slice(0, 80),
    );
  const isMarked = () =>
    page.tab.evaluate(() => {
      const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);
      return outlineStyle !== 'none' && parseFloat(outlineWidth) >= 2;
    });
  const tabTo = async (name) => {
    for (let presses = 0; (await focused()) !== name; presses += 1) {
      assert.ok(presses < 60, `Tab does not lead to ${name}`);
      await page.tab.keyboard.press('Tab');
      assert.ok(await isMarked(), `the focus does not show at ${await focused()}`);
    }
  };
  await tabTo('Change app/b1');
  // A round of requests must not take the focus away.
  await page.rounds(2);
  assert.equal(await focused(), 'Change app/b1');
  await page.tab.keyboard.press('Enter');
  await page.tab.getByRole('dialog').waitFor();
  await tabTo('Change');
  await page.tab.keyboard.press('Enter');
  await page.until('the override', async () => (await stateOverride(program)).includes('state app/b1 drain'));
  await page.tab.getByRole('dialog').waitFor({ state: 'hidden' });
  assert.equal(await focused(), 'Change app/b1', 'the focus returns');
  await page.tab.getByRole('button', { name: 'End state app/b1' }).waitFor();
  await tabTo('End state app/b1');
  await page.tab.keyboard.press('Enter');
  await page.until('the end of the override', async () => (await stateOverride(program)).length === 0);
  await page.tab.keyboard.press('Escape');
  await page.end();
});

test('maintenance, and ready', async (t) => {
  const { program } = await start(t);
  const page = await open(t, await throughTunnel(t, program));
  await page.tab.getByRole('button', { name: 'Change app/b3' }).click();
  await page.tab.getByRole('radio', { name: /^maintenance/ }).check();
  await page.tab.getByRole('dialog').getByRole('button', { name: 'Change' }).click();
  await row(page, 'b3').getByText('maintenance').first().waitFor();
  assert.deepEqual(await stateOverride(program), ['state app/b3 maintenance']);
  await page.tab.getByRole('button', { name: 'Change app/b3' }).click();
  assert.ok(await page.tab.getByRole('radio', { name: /^ready/ }).isChecked(), 'ready is proposed');
  await page.tab.getByRole('dialog').getByRole('button', { name: 'Change' }).click();
  await page.until('the end of the override', async () => (await stateOverride(program)).length === 0);
  await page.end();
});

test('a fault of a change stays in the dialog', async (t) => {
  const { program } = await start(t);
  const page = await open(t, await throughTunnel(t, program));
  await page.tab.getByRole('button', { name: 'Change app/b1' }).click();
  const dialog = page.tab.getByRole('dialog');
  await dialog.getByLabel('For').fill('two hours');
  await dialog.getByRole('button', { name: 'Change' }).click();
  await dialog.getByText('`for` must be a duration such as 2h').waitFor();
  assert.equal(await dialog.getByLabel('For').inputValue(), 'two hours');
  await page.tab.keyboard.press('Escape');
  await dialog.waitFor({ state: 'hidden' });
  assert.deepEqual(await stateOverride(program), []);
  await page.end([/400 \(Bad Request\)/]);
});

test('pause and resume', async (t) => {
  const { program } = await start(t);
  const page = await open(t, await throughTunnel(t, program));
  await page.tab.getByRole('button', { name: 'Pause app', exact: true }).click();
  await page.tab.getByRole('dialog').getByLabel('For').fill('90s');
  await page.tab.getByRole('dialog').getByText('pointsman pause app --for 90s', { exact: true }).waitFor();
  await page.tab.getByRole('dialog').getByRole('button', { name: 'Pause' }).click();
  await page.headline('1 problem');
  await page.tab.locator('#problems').getByText('pointsman resume app').waitFor();
  await page.tab
    .locator('#pools')
    .getByText(/paused for 1m/)
    .waitFor();
  assert.deepEqual(await stateOverride(program), ['pause app/null paused']);
  await page.accessible('paused');
  await page.tab.getByRole('button', { name: 'Resume app', exact: true }).click();
  await page.headline('all is well');
  assert.deepEqual(await stateOverride(program), []);
  await page.end();
});

test('a connection is listed, explained and killed', async (t) => {
  const { program } = await start(t);
  const port = await program.port('main');
  const [one, other] = [await client(port), await client(port)];
  t.after(() => {
    one.destroy();
    other.destroy();
  });
  const page = await open(t, await throughTunnel(t, program));
  await page.headline('all is well');
  await page.tab.locator('#connections summary').click();
  const rows = page.tab.locator('#list tbody tr');
  await page.until('two rows', async () => (await rows.count()) === 2);
  await page.accessible('connections');
  await rows
    .filter({ hasText: String(one.localPort) })
    .getByRole('button', { name: String(one.localPort) })
    .click();
  await page.tab
    .getByRole('dialog')
    .getByText('neither side sends')
    .or(page.tab.getByRole('dialog').getByText('nothing holds the connection up'))
    .waitFor();
  await page.tab.getByRole('dialog').getByText('ss -tinmo').first().waitFor();
  await page.accessible('one connection');
  await page.tab.getByRole('button', { name: 'Close' }).click();
  const closed = new Promise((done) => {
    one.on('close', done);
  });
  await rows
    .filter({ hasText: String(one.localPort) })
    .getByRole('button', { name: /^Kill/ })
    .click();
  await page.tab.getByRole('dialog').getByText('Both sides are reset').waitFor();
  assert.equal(one.destroyed, false, 'the question comes first');
  await page.tab.getByRole('dialog').getByRole('button', { name: 'Kill' }).click();
  await closed;
  await page.until('one row', async () => (await rows.count()) === 1);
  assert.equal(other.destroyed, false);
  await page.tab
    .locator('#events')
    .getByText(/was closed, by unix/)
    .waitFor();
  // A name that does not exist is a fault of the form, not of the server.
  await page.tab.locator('#filter').getByLabel('Pool').fill('ap');
  await page.tab.getByRole('button', { name: 'List' }).click();
  await page.tab.locator('#list').getByText('there is no pool `ap`').waitFor();
  await page.headline('all is well');
  await page.end([/404 \(Not Found\)/]);
});

test('without the right to change the page only reads', async (t) => {
  const { program } = await start(t, 'listen = ["unix:FOLDER/admin.sock", "127.0.0.1:0"]');
  const page = await open(t, `http://127.0.0.1:${await program.adminPort()}/`);
  await page.headline('all is well');
  await page.tab.locator('#right').getByText('read-only').waitFor();
  await page.rounds(1);
  for (const name of [/^Change/, /^Pause/, /^Kill/, /^End/, 'Enter the token']) {
    assert.equal(await page.tab.getByRole('button', { name }).count(), 0, String(name));
  }
  assert.deepEqual(new Set(page.requests.map(({ method }) => method)), new Set(['GET']));
  await page.accessible('read-only');
  await page.end();
});

const TOKEN = '0123456789abcdef-the-token';

const tokenInput = (page) => page.tab.getByLabel('Token', { exact: true });

/** Checks that the token is nowhere but in headers. */
async function assertKept(page) {
  const kept = await page.tab.evaluate(() =>
    [
      document.cookie,
      location.href,
      JSON.stringify(localStorage),
      JSON.stringify(sessionStorage),
      document.documentElement.outerHTML,
      ...[...document.querySelectorAll('input')].map((input) => input.value),
      JSON.stringify(history.state),
      window.name,
    ].join('\n'),
  );
  assert.ok(!kept.includes(TOKEN), kept);
  assert.deepEqual(await page.context.cookies(), []);
  assert.deepEqual(
    page.requests.filter(({ url }) => url.includes(TOKEN)),
    [],
  );
  const sent = page.requests.filter(({ headers }) => headers.authorization === `Bearer ${TOKEN}`);
  assert.ok(sent.length > 0, 'the token was sent');
}

test('a token for changes', async (t) => {
  const { program } = await start(t, 'listen = "127.0.0.1:0"\ntoken_file = "FOLDER/token"\ntoken_for = "changes"', {
    token: TOKEN,
  });
  const page = await open(t, `http://127.0.0.1:${await program.adminPort()}/`);
  await page.headline('all is well');
  await page.tab.locator('#right').getByText('read-only').waitFor();
  await page.tab.getByRole('button', { name: 'Enter the token' }).click();
  await page.accessible('the form of the token');
  await page.screenshot('token');
  await tokenInput(page).fill('wrong-token-of-some-length');
  await page.tab.keyboard.press('Enter');
  await page.tab.getByText('does not accept this token').waitFor();
  await tokenInput(page).fill('with a space');
  await page.tab.keyboard.press('Enter');
  await page.tab.getByText('no spaces').waitFor();
  await tokenInput(page).fill(TOKEN);
  await page.tab.keyboard.press('Enter');
  await page.tab.locator('#right').getByText('changes allowed').waitFor();
  await page.tab.getByRole('button', { name: 'Change app/b1' }).click();
  await page.tab.getByRole('dialog').getByRole('button', { name: 'Change' }).click();
  await row(page, 'b1').getByText('draining').waitFor();
  await row(page, 'b1')
    .getByText(/with the token/)
    .waitFor();
  await assertKept(page);
  // A token that is no longer right ends the right to change.
  fs.writeFileSync(path.join(program.folder, 'token'), 'another-token-of-some-length');
  await page.tab.getByRole('button', { name: 'End state app/b1' }).click();
  await page.tab.getByText('does not accept this token').waitFor();
  await tokenInput(page).fill('another-token-of-some-length');
  await page.tab.keyboard.press('Enter');
  await page.tab.locator('#right').getByText('changes allowed').waitFor();
  await page.tab.getByRole('button', { name: 'Forget the token' }).click();
  await page.tab.locator('#right').getByText('read-only').waitFor();
  await page.tab.reload();
  await page.tab.locator('#right').getByText('read-only').waitFor();
  await page.end([/401 \(Unauthorized\)/]);
});

test('a token for all', async (t) => {
  const { program } = await start(t, 'listen = "127.0.0.1:0"\ntoken_file = "FOLDER/token"', { token: TOKEN });
  const page = await open(t, `http://127.0.0.1:${await program.adminPort()}/`);
  await page.headline('the token is needed');
  await page.accessible('without the token');
  const before = page.requests.length;
  assert.equal(await page.tab.evaluate(() => document.activeElement.type), 'password', 'the form has the focus');
  await page.tab.keyboard.type(TOKEN);
  assert.equal(page.requests.length, before, 'nothing is asked until there is a token');
  await page.tab.keyboard.press('Enter');
  await page.headline('all is well');
  await page.tab.locator('#right').getByText('changes allowed').waitFor();
  await page.rounds(1);
  await assertKept(page);
  await page.tab.reload();
  await page.headline('the token is needed');
  await page.end([/401 \(Unauthorized\)/]);
});

test('the server ends and comes back', async (t) => {
  const { program, backends } = await start(t);
  const page = await open(t, await throughTunnel(t, program));
  await page.headline('all is well');
  await program.end();
  await page.headline('the server cannot be reached');
  await page.tab
    .getByText(/^for \d+s, since \d\d:\d\d:\d\d. The values below are of \d\d:\d\d:\d\d. The page tries again.$/)
    .waitFor();
  assert.equal(await page.tab.locator('.backends tbody tr').count(), 3, 'the last values stay');
  await page.accessible('offline');
  await page.screenshot('offline');
  await page.tab.getByRole('button', { name: 'Change app/b1' }).click();
  await page.tab.getByRole('dialog').getByRole('button', { name: 'Change' }).click();
  await page.tab.getByRole('dialog').getByText('The server cannot be reached.').waitFor();
  await page.tab.keyboard.press('Escape');
  await runIn(t, `[admin]\nlisten = "unix:FOLDER/admin.sock"\n${balanced(backends)}`, program.folder);
  await page.headline('all is well');
  assert.equal(await page.tab.locator('body.stale').count(), 0);
  await page.end([/ERR_EMPTY_RESPONSE|ERR_CONNECTION|Failed to load resource/]);
});

test('a backend dies and comes back', async (t) => {
  const dead = await echo();
  const { port } = dead;
  const program = await run(
    t,
    `[admin]\nlisten = "unix:FOLDER/admin.sock"\n[listener.main]\nbind = "127.0.0.1:0"\npool = "app"\n[pool.app]\n` +
      `backends = [{ name = "dies", address = "127.0.0.1:${port}" }]\nhealth = { interval = "100ms", fall = 1 }\n`,
  );
  const page = await open(t, await throughTunnel(t, program));
  await page.headline('all is well');
  await dead.close();
  await page.headline('2 problems');
  await page.tab.locator('#spoken').getByText('2 problems: pool app, backend app/dies').waitFor({ state: 'attached' });
  await page.tab.getByRole('button', { name: 'Copy pointsman connections --pool app' }).waitFor();
  await page.tab.locator('#pools').getByText('no backend available: 1 down').waitFor();
  await page.accessible('down');
  const alive = await echo(port);
  t.after(alive.close);
  await page.headline('all is well');
  await page.tab.locator('#spoken').getByText('all is well', { exact: true }).waitFor({ state: 'attached' });
  await page.end();
});

test('other sites', async (t) => {
  const { program } = await start(t);
  const url = await throughTunnel(t, program);
  const { port } = new URL(url);
  // A link leads to the page, which reads its data itself.
  const page = await open(t, 'about:blank');
  await page.tab.setContent(`<a href="${url}">the page</a>`);
  await page.tab.getByText('the page').click();
  await page.headline('all is well');
  await page.end();
  // Another site cannot show the page in a frame, or read anything.
  const other = await open(t, 'about:blank');
  await other.tab.setContent(`<iframe src="${url}"></iframe>`);
  const frame = () => other.tab.frames()[1]?.url() ?? '';
  await other.until('the refusal', () => frame().startsWith('chrome-error:'));
  const read = (path, options) =>
    other.tab.evaluate(
      ([where, how]) =>
        fetch(where, how).then(
          (answer) => answer.text(),
          (error) => error.name,
        ),
      [path, options],
    );
  assert.equal(await read(`${url}api/v1/status`), 'TypeError');
  assert.equal(await read(url), 'TypeError');
  await read(`${url}api/v1/overrides/pause?pool=app&for=60s`, { method: 'POST', mode: 'no-cors' });
  assert.deepEqual(await stateOverride(program), []);
  // A site whose name leads to the tunnel is another origin with the same server.
  const evil = `http://evil.example:${port}`;
  for (const path of ['/', '/api/v1/status']) {
    const answer = await other.tab.goto(`${evil}${path}`);
    assert.equal(answer.status(), 421, path);
  }
  assert.match(
    await read('/api/v1/overrides/pause?pool=app&for=60s', { method: 'POST' }),
    /the header Host has a name that is not configured/,
  );
  assert.deepEqual(await stateOverride(program), []);
});
