// A headless Chromium, and the checks that every case makes.

import assert from 'node:assert/strict';
import fs from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';

const require = createRequire(path.join(process.env.PAGE_MODULES, 'package.json'));
const { chromium } = require('playwright-core');
const axe = fs.readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');

const OPTIONS = [
  '--headless',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--host-resolver-rules=MAP evil.example 127.0.0.1',
];

/** The time for which a condition is waited for, in ms. */
export const PATIENCE = 30_000;

export const launch = () => chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: OPTIONS });

/** A page with the requests, the console messages and the violations of its policy. */
export class Page {
  /** Opens an address in a new context: without cookies, storage and cache. */
  static async open(browser, url, options = {}) {
    const context = await browser.newContext({
      viewport: { width: 1280, height: 900 },
      colorScheme: 'light',
      locale: 'en-GB',
      ...options,
    });
    const page = new Page(context, await context.newPage());
    page.tab.setDefaultTimeout(PATIENCE);
    page.tab.on('console', (message) => {
      if (['error', 'warning'].includes(message.type())) page.messages.push(message.text());
    });
    page.tab.on('pageerror', (error) => page.messages.push(String(error)));
    page.tab.on('request', (request) =>
      page.requests.push({ method: request.method(), url: request.url(), headers: request.headers() }),
    );
    await page.tab.addInitScript(() => {
      window.violations = [];
      window.shifts = [];
      document.addEventListener('securitypolicyviolation', (event) =>
        window.violations.push(`${event.violatedDirective}: ${event.blockedURI} ${event.sample}`),
      );
      new PerformanceObserver((list) => window.shifts.push(...list.getEntries().map((entry) => entry.value))).observe({
        type: 'layout-shift',
        buffered: true,
      });
    });
    await page.tab.goto(url);
    return page;
  }

  constructor(context, tab) {
    this.context = context;
    this.tab = tab;
    this.messages = [];
    this.requests = [];
  }

  /** Waits for a headline that matches. */
  async headline(expression) {
    await this.tab.locator('#headline').filter({ hasText: expression }).waitFor();
  }

  /** Waits for a condition in this process, such as one about the API. */
  async until(what, condition) {
    const end = Date.now() + PATIENCE;
    while (!(await condition())) {
      assert.ok(Date.now() < end, `waited for: ${what}`);
      // A frame of the browser is the clock of this loop.
      await this.tab.evaluate(() => new Promise((done) => requestAnimationFrame(() => done())));
    }
  }

  /** Waits for so many rounds of requests from now on. */
  async rounds(number) {
    const done = () => this.requests.filter(({ url }) => url.endsWith('/api/v1/status')).length;
    const before = done();
    // The round after the last one shows that the last one was drawn.
    await this.until(`${number} rounds`, () => done() > before + number);
  }

  /** Runs axe in both colour schemes, and checks that the page has no horizontal scroll bar. */
  async accessible(what) {
    for (const colorScheme of ['light', 'dark']) {
      await this.tab.emulateMedia({ colorScheme, reducedMotion: 'reduce' });
      // The policy forbids scripts of others in the page; a debugger may run them in their own world.
      const session = await this.context.newCDPSession(this.tab);
      const { frameTree } = await session.send('Page.getFrameTree');
      const { executionContextId: contextId } = await session.send('Page.createIsolatedWorld', { frameId: frameTree.frame.id });
      await session.send('Runtime.evaluate', { expression: axe, contextId });
      const { result, exceptionDetails } = await session.send('Runtime.evaluate', {
        contextId,
        awaitPromise: true,
        returnByValue: true,
        expression: `axe.run({ resultTypes: ['violations'] }).then((result) => ({ passes: result.passes.length, violations: result.violations }))`,
      });
      await session.detach();
      assert.equal(exceptionDetails, undefined, JSON.stringify(exceptionDetails));
      const { passes, violations } = result.value;
      const told = violations.map(
        ({ id, help, nodes }) =>
          `${id}: ${help}\n  ${nodes
            .slice(0, 5)
            .map((node) => `${node.html} ${node.failureSummary}`)
            .join('\n  ')}`,
      );
      assert.deepEqual(told, [], `${what}, ${colorScheme}`);
      assert.ok(passes > 15, `${what}: only ${passes} rules of axe had something to check`);
    }
    await this.tab.emulateMedia({ colorScheme: 'light', reducedMotion: 'no-preference' });
    const { wide, shown } = await this.tab.evaluate(() => ({
      wide: document.documentElement.scrollWidth,
      shown: window.innerWidth,
    }));
    assert.ok(wide <= shown, `${what}: the page is ${wide} px wide, and the window ${shown}`);
  }

  async screenshot(name, options = {}) {
    if (!process.env.SCREENSHOTS) return;
    fs.mkdirSync(process.env.SCREENSHOTS, { recursive: true });
    await this.tab.screenshot({ path: path.join(process.env.SCREENSHOTS, `${name}.png`), ...options });
  }

  /** Checks at the end of a case that nothing went wrong without notice. `allowed` are messages that the case causes. */
  async end(allowed = []) {
    const violations = await this.tab.evaluate(() => window.violations);
    assert.deepEqual(violations, [], 'violations of the policy');
    // The browser refuses these only once their event comes.
    const handlers = await this.tab.evaluate(() =>
      [...document.querySelectorAll('*')]
        .flatMap((element) => element.getAttributeNames())
        .filter((name) => name.startsWith('on')),
    );
    assert.deepEqual(handlers, [], 'handlers in attributes');
    const unexpected = this.messages.filter((message) => !allowed.some((expression) => expression.test(message)));
    assert.deepEqual(unexpected, [], 'messages of the console');
    const elsewhere = this.requests.filter(({ url }) => new URL(url).origin !== new URL(this.tab.url()).origin);
    assert.deepEqual(elsewhere, [], 'requests to other hosts');
    await this.context.close();
  }
}
