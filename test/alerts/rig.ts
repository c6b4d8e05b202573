/**
 * Receivers of a test's own: real servers, which keep what they are told; and a condition that a
 * test can begin and end.
 */
import { createSocket, type Socket as Datagrams } from 'node:dgram';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import type { IncomingHttpHeaders, RequestListener, Server, ServerResponse } from 'node:http';
import { createServer as createPlain } from 'node:http';
import { createServer as createSecure } from 'node:https';
import { type AddressInfo, createServer, type Socket, type Server as TcpServer } from 'node:net';
import { join } from 'node:path';
import { buffer, text } from 'node:stream/consumers';
import { createServer as createTlsServer } from 'node:tls';
import type { KeywardClient } from 'keyward-client';
import { SMTPServer } from 'smtp-server';
import type { Credentials } from '../../dev/certificates.ts';
import { runSql } from '../store/database.ts';
import type { Environment } from '../support/kit.ts';

/** A request, as it came. */
export interface Told {
  readonly path: string;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
}

/** A web server, which answers with 200 unless it is to do otherwise. */
export class Webhook implements AsyncDisposable {
  readonly told: Told[] = [];
  /** Returns the status of the next answer; undefined for none at all. */
  status: (told: Told) => number | undefined = () => 200;
  readonly #server: Server;

  private constructor(credentials: Credentials | undefined) {
    const listener: RequestListener = async (request, response) => {
      const { url: path = '', headers } = request;
      const told = { path, headers, body: await text(request).catch(() => '') };
      this.told.push(told);
      this.#answer(response, this.status(told));
    };
    this.#server =
      credentials === undefined
        ? createPlain(listener)
        : createSecure({ cert: credentials.certPem, key: credentials.keyPem }, listener);
  }

  static async start(credentials?: Credentials): Promise<Webhook> {
    const webhook = new Webhook(credentials);
    await once(webhook.#server.listen(0, '127.0.0.1'), 'listening');
    return webhook;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** What it was told, as JSON. */
  get bodies(): Record<string, unknown>[] {
    return this.told.map(({ body }) => JSON.parse(body) as Record<string, unknown>);
  }

  #answer(response: ServerResponse, status: number | undefined): void {
    if (status === undefined) return;
    if (status >= 300 && status < 400) response.setHeader('location', '/elsewhere');
    response.writeHead(status).end();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    this.#server.close();
    await once(this.#server, 'close');
  }
}

/** A mail server, which takes what comes over TLS from whoever has the password. */
export class MailServer implements AsyncDisposable {
  readonly mails: { readonly text: string; readonly isSecure: boolean; readonly user: string }[] =
    [];
  readonly #server: SMTPServer;

  private constructor(credentials: Credentials, password: string) {
    this.#server = new SMTPServer({
      cert: credentials.certPem,
      key: credentials.keyPem,
      onAuth: ({ username = '', password: given }, _session, callback) =>
        callback(given === password ? null : new Error('no'), { user: username }),
      onData: (stream, { secure, user }, callback) => {
        void buffer(stream).then((content) => {
          this.mails.push({ text: String(content), isSecure: secure, user: String(user) });
          callback(null);
        });
      },
    });
    this.#server.on('error', () => {});
  }

  static async start(credentials: Credentials, password: string): Promise<MailServer> {
    const server = new MailServer(credentials, password);
    await new Promise<void>((resolve) => server.#server.listen(0, '127.0.0.1', resolve));
    return server;
  }

  get port(): number {
    return (this.#server.server.address() as AddressInfo).port;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await new Promise<void>((resolve) => this.#server.close(resolve));
  }
}

/** A collector of syslog by TCP or TLS: messages by octet counting (RFC 6587). */
export class Collector implements AsyncDisposable {
  readonly messages: string[] = [];
  readonly #server: TcpServer;
  readonly #sockets = new Set<Socket>();

  private constructor(credentials: Credentials | undefined) {
    const listener = (socket: Socket) => {
      this.#sockets.add(socket);
      socket.on('error', () => {});
      void buffer(socket).then(
        (content) => this.#read(content),
        () => {},
      );
    };
    this.#server =
      credentials === undefined
        ? createServer(listener)
        : createTlsServer({ cert: credentials.certPem, key: credentials.keyPem }, listener);
  }

  static async start(credentials?: Credentials): Promise<Collector> {
    const collector = new Collector(credentials);
    await once(collector.#server.listen(0, '127.0.0.1'), 'listening');
    return collector;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  #read(content: Buffer): void {
    const space = content.indexOf(' ');
    const length = Number(content.subarray(0, space));
    if (content.length !== space + 1 + length) throw new Error('octets are counted wrongly');
    this.messages.push(String(content.subarray(space + 1)));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
    await once(this.#server, 'close');
  }
}

/** A collector of syslog by UDP. */
export class DatagramCollector implements Disposable {
  readonly messages: string[] = [];
  readonly #socket: Datagrams = createSocket('udp4');

  static async start(): Promise<DatagramCollector> {
    const collector = new DatagramCollector();
    collector.#socket.on('message', (message) => collector.messages.push(String(message)));
    await new Promise<void>((resolve) => collector.#socket.bind(0, '127.0.0.1', resolve));
    return collector;
  }

  get port(): number {
    return this.#socket.address().port;
  }

  [Symbol.dispose](): void {
    this.#socket.close();
  }
}

/** Writes the file of receivers, and returns the setting that names it. */
export function receiversIn(
  { directory }: Pick<Environment, 'directory'>,
  receivers: readonly object[],
): { readonly KEYWARD_ALERTS_FILE: string } {
  const path = join(directory, 'receivers.json');
  writeFileSync(path, JSON.stringify({ receivers }));
  return { KEYWARD_ALERTS_FILE: path };
}

/** Writes a file for its owner alone. */
export function secretIn({ directory }: Environment, name: string, content: string): string {
  const path = join(directory, name);
  writeFileSync(path, content, { mode: 0o600 });
  return path;
}

/** What tests make happen; on a busy machine there may be other alerts. */
const CONDITIONS = [
  'maintenance-corrupt',
  'token-object',
  'alert-undelivered',
  'alerts-too-many',
  'silences-corrupt',
];

/** A webhook on this machine, in plain HTTP. */
export function hook(name: string, { port }: Webhook, more: object = {}): object {
  return {
    name,
    type: 'webhook',
    template: 'cloudevents',
    alerts: CONDITIONS,
    url: `http://127.0.0.1:${port}/hook`,
    allowPrivateNetwork: true,
    ...more,
  };
}

/** Has the maintenance switch not verify, or verify again, and the service look at it. */
export async function tamper({ urls }: Environment, keyward: KeywardClient): Promise<void> {
  await runSql(urls.superuser, 'UPDATE maintenance SET paused = NOT paused');
  await keyward.getMaintenance();
}
