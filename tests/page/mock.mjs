// A server that answers as the admin listener does, with values that a test chooses. The page and its headers are those of
// a real program.

import { once } from 'node:events';
import http from 'node:http';

export class Mock {
  /** Starts a mock with the page of the program at `origin`. `answers` has a value or a function for each path. */
  static async start(origin, answers, port = 0) {
    const page = await fetch(`${origin}/`);
    const headers = Object.fromEntries(page.headers);
    delete headers['content-length'];
    const mock = new Mock(await page.text(), headers, answers);
    mock.server.listen(port, '127.0.0.1');
    await once(mock.server, 'listening');
    return mock;
  }

  constructor(text, headers, answers) {
    Object.assign(this, { text, headers, answers, requests: [] });
    this.server = http.createServer((request, answer) => this.answer(request, answer));
  }

  get port() {
    return this.server.address().port;
  }

  get origin() {
    return `http://127.0.0.1:${this.port}`;
  }

  /** The requests that change something. */
  get changes() {
    return this.requests.filter(({ method }) => method !== 'GET');
  }

  answer(request, answer) {
    const { method, url } = request;
    answer.setHeader('connection', 'close');
    if (url === '/') {
      answer.writeHead(200, this.headers);
      return answer.end(this.text);
    }
    this.requests.push({ method, url, token: request.headers.authorization });
    const chosen = this.answers[url.split('?')[0]];
    const value = typeof chosen === 'function' ? chosen({ method, url, token: request.headers.authorization }) : chosen;
    const [code, body] =
      value instanceof Answer
        ? [value.code, value.body]
        : value === undefined
          ? [404, 'this path does not exist\n']
          : [200, JSON.stringify(value)];
    answer.writeHead(code, { 'content-type': code === 200 ? 'application/json' : 'text/plain; charset=utf-8' });
    answer.end(body);
  }

  async end() {
    if (!this.server.listening) return;
    this.server.close();
    this.server.closeAllConnections();
    await once(this.server, 'close');
  }
}

/** An answer with a code of its own. */
export class Answer {
  constructor(code, body) {
    this.code = code;
    this.body = body;
  }
}
