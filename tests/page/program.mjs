// Starts pointsman, backends and clients for a case, and a tunnel to its Unix socket.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import path from 'node:path';

/** Starts a TCP server at a port of the kernel's choice. Its connections end with it. */
export async function listen(handler, port = 0) {
  const server = net.createServer(handler);
  const sockets = new Set();
  server.on('connection', (socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    socket.on('error', () => {});
  });
  server.listen(port, '127.0.0.1');
  await once(server, 'listening');
  const close = async () => {
    sockets.forEach((socket) => socket.destroy());
    server.close();
    await once(server, 'close');
  };
  return { port: server.address().port, close, sockets };
}

/** A backend that returns the bytes that it gets. */
export const echo = (port) => listen((socket) => socket.pipe(socket), port);

/** Forwards connections to a Unix socket, as `ssh -L PORT:SOCKET` does. */
export function tunnel(file) {
  return listen((socket) => {
    const other = net.connect(file);
    other.on('error', () => socket.destroy());
    socket.on('error', () => other.destroy());
    socket.pipe(other).pipe(socket);
  });
}

/** A running pointsman. `text` is its configuration; `FOLDER` in it is the folder of the case. */
export class Program {
  static async start(program, text, folder) {
    const file = path.join(folder, 'config.toml');
    fs.writeFileSync(
      file,
      `access_log.to = "off"\nworkers = 2\nshutdown.drain = "0s"\nprocess.landlock = false\n${text.replaceAll('FOLDER', folder)}`,
    );
    const child = spawn(program, ['run', file], {
      stdio: ['ignore', 'ignore', 'pipe'],
      env: { ...process.env, RUNTIME_DIRECTORY: '' },
    });
    const started = new Program(child, folder);
    child.stderr.setEncoding('utf8').on('data', (part) => {
      started.log += part;
    });
    await started.logged(/serving/);
    await started.logged(/admin listens/);
    return started;
  }

  constructor(child, folder) {
    this.child = child;
    this.folder = folder;
    this.log = '';
  }

  /** Waits for a line in the log, and returns the match. */
  async logged(expression) {
    for (;;) {
      const match = this.log.match(expression);
      if (match) return match;
      if (this.child.exitCode !== null) throw new Error(`it ended:\n${this.log}`);
      await Promise.race([once(this.child.stderr, 'data'), once(this.child, 'exit')]);
    }
  }

  get socket() {
    return path.join(this.folder, 'admin.sock');
  }

  /** Returns the port of a listener. */
  async port(listener) {
    const [, port] = await this.logged(new RegExp(`"${listener}": \\[127\\.0\\.0\\.1:(\\d+)`));
    return Number(port);
  }

  /** Returns the port of an admin listener at a loopback address. */
  async adminPort() {
    const [, port] = await this.logged(/admin listens.* address=127\.0\.0\.1:(\d+)/);
    return Number(port);
  }

  /** Returns the value of a path of the admin API, through the Unix socket. */
  async ask(where, method = 'GET') {
    const request = http.request({ socketPath: this.socket, path: where, method });
    request.end();
    const [answer] = await once(request, 'response');
    let text = '';
    for await (const part of answer.setEncoding('utf8')) text += part;
    if (answer.statusCode !== 200) throw new Error(`${where}: ${answer.statusCode} ${text}`);
    return JSON.parse(text);
  }

  async end() {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const ended = once(this.child, 'exit');
    this.child.kill('SIGTERM');
    await ended;
  }
}

/** Connects a client and waits until a byte came back. */
export async function client(port) {
  const socket = net.connect(port, '127.0.0.1');
  socket.on('error', () => {});
  socket.write('x');
  await once(socket, 'data');
  return socket;
}
