// What a case starts, and ends with it.

import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';

import { launch, Page } from './browser.mjs';
import { echo, Program, tunnel } from './program.mjs';
import { Mock } from './mock.mjs';

/** One pool of three backends, and a listener for clients. */
export function balanced(backends) {
  const pool = backends.map(({ port }, at) => `{ name = "b${at + 1}", address = "127.0.0.1:${port}" }`).join(', ');
  return `[listener.main]\nbind = "127.0.0.1:0"\npool = "app"\n[pool.app]\nbalance = "round-robin"\nbackends = [${pool}]\n`;
}

/** Starts three backends and a program with this text of `[admin]`, by default a Unix socket, and these files. */
export async function start(t, admin = 'listen = "unix:FOLDER/admin.sock"', files = {}) {
  const backends = [];
  for (let at = 0; at < 3; at += 1) {
    backends.push(await echo());
    t.after(backends[at].close);
  }
  const program = await run(t, `[admin]\n${admin}\n${balanced(backends)}`, files);
  return { program, backends };
}

/** Starts a program with this configuration, in a folder of its own with these files. */
export async function run(t, text, files = {}) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'pointsman-page-'));
  for (const [name, content] of Object.entries(files)) fs.writeFileSync(path.join(folder, name), content);
  return runIn(t, text, folder);
}

/** Starts a program in a folder. The folder ends with it. */
export async function runIn(t, text, folder) {
  const program = await Program.start(process.env.POINTSMAN, text, folder);
  t.after(async () => {
    await program.end();
    fs.rmSync(folder, { recursive: true, force: true });
  });
  return program;
}

/** Starts a tunnel to the Unix socket of a program, and returns the address of the page. */
export async function throughTunnel(t, program) {
  const { port, close } = await tunnel(program.socket);
  t.after(close);
  return `http://localhost:${port}/`;
}

let browser = null;

/** Opens a page in a new context of the only browser. */
export async function open(t, url, options) {
  browser ??= await launch();
  const page = await Page.open(browser, url, options);
  t.after(() => page.context.close());
  return page;
}

/** The address of a real program whose page the mocks serve. */
let origin = null;

export async function mock(t, answers) {
  if (!origin) {
    const keep = { after: (end) => ends.push(end) };
    origin = (await throughTunnel(keep, (await start(keep)).program)).replace(/\/$/, '');
  }
  const mock = await Mock.start(origin, answers);
  t.after(() => mock.end());
  return mock;
}

const ends = [];

/** Ends everything that the cases share. */
export async function endShared() {
  await browser?.close();
  for (const end of ends.reverse()) await end();
}
