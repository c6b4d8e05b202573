/**
 * Floods, and what has to be true after each of them, whatever it was.
 *
 * After a flood the same process serves; a caller on a new connection is answered at once; open
 * files and memory are what they were; the log says which connections were ended and why, and
 * nothing went wrong unforeseen. Who floods comes from an address of their own, by which the log's
 * lines are known. Knows no flood.
 */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Credentials, createCertificateAuthority } from '../../dev/certificates.ts';
import { freePort } from '../../dev/postgres.ts';
import { AUDIENCE, signingKey } from '../access/issuer.ts';
import { call, FrameClient, field, grpcFrame, openSession, type Peer } from '../faults/http2.ts';
import { grantEverything } from '../support/grants.ts';
import { type Environment, eventually, type LogLine } from '../support/kit.ts';
import { type HostileService, PARENT, startAgain, startHostile } from './service.ts';

/** How a flood's callers present themselves: each is a row in a test's name. */
export const CREDENTIALS = [
  'a certificate',
  'no certificate',
  'a certificate of another CA',
] as const;
export type CredentialKind = (typeof CREDENTIALS)[number];

/** Who floods. */
export interface Flooder {
  readonly kind: CredentialKind;
  readonly peer: Peer;
  /** The port of the listener for health, which speaks no TLS. */
  readonly healthPort: number;
  /**
   * Shakes hands; the connection is closed when the flood is over. Undefined when the server does
   * not let it.
   */
  connect(options?: Parameters<typeof FrameClient.connect>[1]): Promise<FrameClient | undefined>;
  /** Connects to the listener for health. */
  connectPlain(): Promise<FrameClient>;
}

/** One way to flood the server. */
export interface Flood {
  /** A test's name with the credentials behind it. */
  readonly name: string;
  /** What it does must be ended by the server; or must, if it took so many seconds. */
  readonly isEnded?: boolean | ((seconds: number) => boolean);
  /** The callers have rights. */
  readonly isCustomer?: boolean;
  /** Said when it fails: how to have the same once more. */
  readonly toRepeat?: string;
  readonly run: (flooder: Flooder) => Promise<void>;
}

const CUSTOMER = 'spiffe://keyward.test/customer';
const GET_TENANT = '/keyward.v1.AdminService/GetTenant';
const WITHIN_MS = 250;
/** A machine that is slow was slow before, too. */
const TIMES_AS_LONG = 10;
const TRIES = 5;
/** Of what is resident, after all floods: garbage, and what malloc keeps of what was freed. */
const RESIDENT_SLACK_BYTES = 512 * 2 ** 20;
/** Beside connections: what a process opens for a moment, or for the first time. */
const FILES_SLACK = 3;
/**
 * What the server gives peers that say nothing, before they have shaken hands and after: tests wait
 * for the end of it.
 */
const PATIENCE = { KEYWARD_HANDSHAKE_MS: '1000', KEYWARD_KEEPALIVE_MS: '1000' };
const ENDED = /(connection|certificate|handshake).*\b(closed|dropped|ended|refused|reset)\b/;

/** Starts a service to flood. With `acceptsTokens` connections need no certificate. */
export async function startFlooded({
  acceptsTokens,
}: {
  readonly acceptsTokens: boolean;
}): Promise<FloodedService> {
  const healthPort = await freePort();
  const variables: Record<string, string> = {
    ...PATIENCE,
    KEYWARD_HEALTH_LISTEN: `127.0.0.1:${healthPort}`,
  };
  const hostile = await startHostile({}, async (environment) => {
    await grantEverything(environment.variables, [CUSTOMER]);
    if (acceptsTokens) variables['KEYWARD_ISSUERS_FILE'] = writeIssuers(environment);
    return variables;
  });
  return new FloodedService(hostile, variables, healthPort);
}

/** See this file's first paragraph. */
export class FloodedService implements AsyncDisposable {
  readonly #variables: Readonly<Record<string, string>>;
  readonly #healthPort: number;
  readonly #otherCa = createCertificateAuthority('another CA');
  #hostile: HostileService;
  /**
   * What the process has open and holds before any flood: what each leaves behind would add up
   * otherwise.
   */
  #before: { readonly files: number; readonly held: number; readonly resident: number } | undefined;
  #flooders = 0;

  constructor(
    hostile: HostileService,
    variables: Readonly<Record<string, string>>,
    healthPort: number,
  ) {
    this.#hostile = hostile;
    this.#variables = variables;
    this.#healthPort = healthPort;
  }

  /** Runs a flood while honest calls are made, and asserts all that has to be true after it. */
  async survives(flood: Flood, kind: CredentialKind): Promise<void> {
    await this.#beAlive();
    try {
      await this.#whileAlive(() => this.#survives(flood, kind));
    } catch (cause) {
      if (flood.toRepeat === undefined) throw cause;
      throw new Error(`with ${flood.toRepeat}: ${cause}`, { cause });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#hostile[Symbol.asyncDispose]();
  }

  async #survives(flood: Flood, kind: CredentialKind): Promise<void> {
    const hostile = this.#hostile;
    const usualMs = await this.#newcomerMs();
    this.#before ??= {
      files: hostile.openFiles(),
      held: await hostile.heldBytes(),
      resident: hostile.residentBytes(),
    };
    const from = hostile.service.log.length;
    const clients: FrameClient[] = [];
    const flooder = this.#flooder(kind, flood.isCustomer === true, clients);
    let seconds = 0;
    const endings = await hostile.staysHonest(async () => {
      try {
        const began = performance.now();
        await flood.run(flooder);
        seconds = (performance.now() - began) / 1_000;
        return clients.filter(({ wasEnded }) => wasEnded).map(({ ending }) => ending);
      } finally {
        for (const client of clients) client[Symbol.dispose]();
      }
    });
    await this.#answersNewcomers(usualMs);
    await this.#comesBack();
    const { isEnded = false } = flood;
    if (typeof isEnded === 'boolean' ? isEnded : isEnded(seconds))
      assert.ok(endings.length > 0, 'the server ended none of the connections');
    if (endings.length > 0) await this.#saysWhatEnded(flooder, from, endings);
    this.#nothingIsUnforeseen(from);
  }

  /** Starts it again where a flood has ended it, so that the next one has something to flood. */
  async #beAlive(): Promise<void> {
    const { environment, service } = this.#hostile;
    if (!(await hasEnded(service.ended))) return;
    this.#hostile = await startAgain(environment, this.#variables);
    this.#before = undefined;
  }

  /** What `work` does, or how the process ended in the middle of it. */
  async #whileAlive(work: () => Promise<void>): Promise<void> {
    const { service } = this.#hostile;
    const ended = service.ended.then((how) => {
      const lines = service.log
        .slice(-40)
        .map((line) => String(line['text'] ?? JSON.stringify(line)));
      throw new Error(`the process ended (${how}); its last words:\n${lines.join('\n')}`);
    });
    const working = work();
    working.catch(() => {}); // Whichever fails first is told.
    try {
      await Promise.race([ended, working]);
    } catch (error) {
      // A process that ends fails calls first.
      await Promise.race([ended, sleep(1_000)]);
      throw error;
    }
  }

  #flooder(kind: CredentialKind, isCustomer: boolean, clients: FrameClient[]): Flooder {
    const { service, peer: honest } = this.#hostile;
    this.#flooders += 1;
    const number = this.#flooders;
    const uri = isCustomer ? CUSTOMER : `spiffe://keyward.test/flood-${number}`;
    const credentials = this.#credentials(kind, uri);
    const peer = {
      port: service.port,
      ca: honest.ca,
      localAddress: `127.1.${number >> 8}.${number & 0xff}`,
      ...(credentials && { cert: credentials.certPem, key: credentials.keyPem }),
    };
    return {
      kind,
      peer,
      healthPort: this.#healthPort,
      connect: async (options) => {
        const client = await FrameClient.connect(peer, options).catch(() => undefined);
        if (client !== undefined) clients.push(client);
        return client;
      },
      // What that listener ends is in no log: nobody but the machine's own probes can reach it.
      connectPlain: () => FrameClient.connectPlain({ ...peer, port: this.#healthPort }),
    };
  }

  #credentials(kind: CredentialKind, uri: string): Credentials | undefined {
    if (kind === 'no certificate') return undefined;
    const ca = kind === 'a certificate' ? this.#hostile.environment.ca : this.#otherCa;
    return ca.issue({ subject: 'flood', usage: 'client', uris: [uri] });
  }

  async #answersNewcomers(usualMs: number): Promise<void> {
    const ms = await this.#newcomerMs();
    const limit = Math.max(WITHIN_MS, TIMES_AS_LONG * usualMs);
    assert.ok(
      ms <= limit,
      `a new caller is answered after ${Math.round(ms)} ms, not ${Math.round(limit)}`,
    );
  }

  /** How long a call takes whose caller has yet to connect: the shortest of some. */
  async #newcomerMs(): Promise<number> {
    let shortest = Number.POSITIVE_INFINITY;
    for (let attempt = 0; attempt < TRIES; attempt++) {
      const from = performance.now();
      using session = openSession(this.#hostile.peer);
      const { status, reason } = await call(session, {
        path: GET_TENANT,
        body: [grpcFrame(field(1, PARENT))],
      });
      assert.equal(status, 0, `a new caller is refused: ${reason}`);
      shortest = Math.min(shortest, performance.now() - from);
    }
    return shortest;
  }

  /** Open files and memory are what they were before the first flood. */
  async #comesBack(): Promise<void> {
    const hostile = this.#hostile;
    const { files, held, resident } = this.#before ?? { files: 0, held: 0, resident: 0 };
    await eventually(() => {
      const now = hostile.openFiles();
      assert.ok(now <= files + FILES_SLACK, `${now} files are open, ${files} were before`);
    });
    await hostile.holdsLittleMoreThan(held);
    const grown = hostile.residentBytes() - resident;
    assert.ok(grown <= RESIDENT_SLACK_BYTES, `memory has grown by ${grown >> 20} MiB`);
  }

  /** A line of the flooder's, or that its certificate was refused. */
  async #saysWhatEnded({ peer }: Flooder, from: number, endings: readonly string[]): Promise<void> {
    const isAbout = (line: LogLine) =>
      ENDED.test(String(line['msg'])) && JSON.stringify(line).includes(String(peer.localAddress));
    const { log } = this.#hostile.service;
    await eventually(() =>
      assert.ok(
        log.slice(from).some(isAbout),
        `the log does not say what was ended: ${endings.slice(0, 3).join('; ')}`,
      ),
    );
  }

  #nothingIsUnforeseen(from: number): void {
    const lines = this.#hostile.service.log.slice(from).filter((line) => {
      const { level, outcome, text } = line;
      const isAlarm = level === 'error' || level === 'fatal';
      return (
        isAlarm ||
        outcome === 'INTERNAL' ||
        text !== undefined ||
        /uncaught/i.test(String(line['msg']))
      );
    });
    assert.deepEqual(lines, []);
  }
}

async function hasEnded(ended: Promise<unknown>): Promise<boolean> {
  return Promise.race([ended.then(() => true), sleep(0, false)]);
}

/**
 * An issuer of tokens whom nobody here has a token of: with it, connections need no certificate.
 */
function writeIssuers({ directory }: Environment): string {
  const jwksFile = join(directory, 'jwks.json');
  writeFileSync(jwksFile, JSON.stringify({ keys: [signingKey('key-1').jwk] }));
  const issuer = {
    name: 'corp',
    issuer: 'https://issuer.test/',
    algorithms: ['ES256'],
    audience: AUDIENCE,
  };
  const path = join(directory, 'issuers.json');
  writeFileSync(path, JSON.stringify({ issuers: [{ ...issuer, jwksFile }] }));
  return path;
}
