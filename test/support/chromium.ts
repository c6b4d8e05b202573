/**
 * Debian's Chromium without a screen, driven by the DevTools protocol: a person with a browser, and
 * with an authenticator that is part of it.
 *
 * Everything is given back by `await using`. Knows no page.
 */
import { spawn } from 'node:child_process';
import { createHash, X509Certificate } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { eventually } from './kit.ts';

/** Where Debian has it. */
export const CHROMIUM = '/usr/bin/chromium';
/** Why there is no browser; false where there is one. */
export const WITHOUT_CHROMIUM = existsSync(CHROMIUM)
  ? false
  : 'no Chromium: apt-get install chromium';

/** How to start it. */
export interface ChromiumOptions {
  /** A folder of its own. */
  readonly directory: string;
  /** PEM of the certificate that it takes as trusted, whichever host shows it. */
  readonly certificate: string;
  /** Hosts that are this machine. */
  readonly hosts: readonly string[];
}

/** What an authenticator can do. */
export interface AuthenticatorOptions {
  /** Whether it verifies the person whenever it is asked to. */
  readonly isUserVerified: boolean;
  /** What it holds from before, when it was put away. */
  readonly credentials?: readonly Json[];
}

type Json = Readonly<Record<string, unknown>>;

interface Message {
  readonly id?: number;
  readonly method?: string;
  readonly sessionId?: string;
  readonly params?: Json;
  readonly result?: Json;
  readonly error?: { readonly message: string };
}

/** The browser. */
export class Chromium implements AsyncDisposable {
  readonly #child: ReturnType<typeof spawn>;
  readonly #ended: Promise<unknown>;
  readonly #socket: WebSocket;
  readonly #waiting = new Map<number, (message: Message) => void>();
  readonly #listeners = new Set<(message: Message) => void>();
  #last = 0;

  private constructor(child: ReturnType<typeof spawn>, ended: Promise<unknown>, socket: WebSocket) {
    this.#child = child;
    this.#ended = ended;
    this.#socket = socket;
    socket.addEventListener('message', ({ data }) => this.#received(JSON.parse(String(data))));
  }

  /** Starts it. */
  static async start({ directory, certificate, hosts }: ChromiumOptions): Promise<Chromium> {
    const { publicKey } = new X509Certificate(certificate);
    const key = createHash('sha256').update(publicKey.export({ type: 'spki', format: 'der' }));
    const child = spawn(
      CHROMIUM,
      [
        ...['--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'],
        ...['--no-first-run', '--disable-background-networking', '--remote-debugging-port=0'],
        `--user-data-dir=${directory}`,
        `--ignore-certificate-errors-spki-list=${key.digest('base64')}`,
        `--host-resolver-rules=${hosts.map((host) => `MAP ${host} 127.0.0.1`).join(',')}`,
        'about:blank',
      ],
      { stdio: 'ignore' },
    );
    const ended = new Promise((resolve) => child.once('close', resolve));
    child.once('error', () => {});
    process.once('exit', () => child.kill('SIGKILL'));
    const [port, path] = await eventually(() => {
      const [first, second] = readFileSync(join(directory, 'DevToolsActivePort'), 'utf8').split(
        '\n',
      );
      if (!first || !second) throw new Error('it does not listen yet');
      return [first, second];
    });
    const socket = new WebSocket(`ws://127.0.0.1:${port}${path}`);
    await new Promise((resolve, reject) => {
      socket.addEventListener('open', resolve);
      socket.addEventListener('error', () => reject(new Error('cannot reach Chromium')));
    });
    return new Chromium(child, ended, socket);
  }

  /** Opens an empty page. */
  async open(): Promise<Page> {
    const { targetId } = await this.send('Target.createTarget', { url: 'about:blank' });
    const { sessionId } = await this.send('Target.attachToTarget', { targetId, flatten: true });
    const page = new Page(this, String(sessionId));
    for (const domain of ['Page', 'Runtime', 'Log', 'Network', 'WebAuthn'])
      await page.send(`${domain}.enable`);
    return page;
  }

  /** Sends a command, and returns its result. */
  send(method: string, params: Json = {}, sessionId?: string): Promise<Json> {
    this.#last += 1;
    const id = this.#last;
    this.#socket.send(JSON.stringify({ id, method, params, ...(sessionId && { sessionId }) }));
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, ({ result = {}, error }) => {
        if (error === undefined) resolve(result);
        else reject(new Error(`${method}: ${error.message}`));
      });
    });
  }

  /** Has the listener called with every event. */
  listen(listener: (message: Message) => void): void {
    this.#listeners.add(listener);
  }

  #received(message: Message): void {
    if (message.id === undefined) for (const listener of this.#listeners) listener(message);
    else {
      this.#waiting.get(message.id)?.(message);
      this.#waiting.delete(message.id);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#socket.close();
    this.#child.kill('SIGKILL');
    await this.#ended;
  }
}

/** One page of it. */
export class Page {
  readonly #chromium: Chromium;
  readonly #sessionId: string;
  /** What the browser says of it, what its policy has stopped among that. */
  readonly notes: string[] = [];
  /** The addresses that it has asked for. */
  readonly requested: string[] = [];

  constructor(chromium: Chromium, sessionId: string) {
    this.#chromium = chromium;
    this.#sessionId = sessionId;
    chromium.listen(({ sessionId: of, method, params }) => {
      if (of !== sessionId) return;
      if (method === 'Log.entryAdded') this.notes.push(textOf(params?.['entry']));
      if (method === 'Runtime.exceptionThrown')
        this.notes.push(JSON.stringify(params?.['exceptionDetails']));
      if (method === 'Network.requestWillBeSent') this.requested.push(urlOf(params?.['request']));
    });
  }

  /** Sends a command for this page. */
  send(method: string, params: Json = {}): Promise<Json> {
    return this.#chromium.send(method, params, this.#sessionId);
  }

  /** Loads a URL, also where it differs from the last one in its fragment alone. */
  async load(url: string): Promise<void> {
    await this.send('Page.navigate', { url: 'about:blank' });
    const { errorText } = await this.send('Page.navigate', { url });
    if (errorText !== undefined) throw new Error(`cannot load ${url.split('#')[0]}: ${errorText}`);
  }

  /** Returns what an expression is in the page; it may be a promise. */
  async evaluate(expression: string): Promise<unknown> {
    const { result, exceptionDetails } = await this.send('Runtime.evaluate', {
      ...{ expression, awaitPromise: true, returnByValue: true, userGesture: true },
    });
    if (exceptionDetails !== undefined) throw new Error(JSON.stringify(exceptionDetails));
    return (result as Json)['value'];
  }

  /** Returns the text that a person sees, once it matches. */
  async text(matches: RegExp): Promise<string> {
    let text = '';
    return eventually(
      async () => {
        text = String(await this.evaluate('document.body.innerText'));
        if (!matches.test(text)) throw new Error('the page does not have it');
        return text;
      },
      () => `it has: ${text}\n${this.notes.join('\n')}`,
    );
  }

  /** Presses the button of that name. */
  async press(name: RegExp): Promise<void> {
    await eventually(async () => {
      const pressed = await this.evaluate(`(() => {
        const buttons = [...document.querySelectorAll('button')];
        const shown = buttons.filter((each) => each.checkVisibility() && !each.disabled);
        const found = shown.find((each) => ${name}.test(each.textContent));
        found?.click();
        return found !== undefined;
      })()`);
      if (pressed !== true) throw new Error(`no button ${name} can be pressed`);
    });
  }

  /** Gives the page an authenticator of its own; returns its id. */
  async addAuthenticator({
    isUserVerified,
    credentials = [],
  }: AuthenticatorOptions): Promise<string> {
    const { authenticatorId } = await this.send('WebAuthn.addVirtualAuthenticator', {
      options: {
        ...{ protocol: 'ctap2', transport: 'internal', hasResidentKey: true },
        ...{ hasUserVerification: true, isUserVerified, automaticPresenceSimulation: true },
      },
    });
    for (const credential of credentials)
      await this.send('WebAuthn.addCredential', { authenticatorId, credential });
    return String(authenticatorId);
  }

  /** Takes an authenticator away; returns what it holds. */
  async putAway(authenticatorId: string): Promise<readonly Json[]> {
    const { credentials } = await this.send('WebAuthn.getCredentials', { authenticatorId });
    await this.send('WebAuthn.removeVirtualAuthenticator', { authenticatorId });
    return credentials as readonly Json[];
  }

  /** Writes a picture of it. */
  async picture(file: string): Promise<void> {
    const { data } = await this.send('Page.captureScreenshot', { captureBeyondViewport: true });
    writeFileSync(file, Buffer.from(String(data), 'base64'));
  }
}

function textOf(entry: unknown): string {
  return String((entry as Json)['text']);
}

function urlOf(request: unknown): string {
  return String((request as Json)['url']);
}
