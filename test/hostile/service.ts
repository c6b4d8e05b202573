/**
 * The service under attack: what the hostile tests share.
 *
 * Owns what has to hold during and after every attack, whatever it was: the process lives, honest
 * calls succeed, on an old connection and on a new one, neither answers nor log hold
 * {@link SECRET}, and nothing that can fail is without a listener for it (`listeners.ts`). Knows no
 * attack.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import type { ClientHttp2Session } from 'node:http2';
import { setTimeout as sleep } from 'node:timers/promises';
import type { KeywardClient } from 'keyward-client';
import { openSession, type Peer } from '../faults/http2.ts';
import {
  type Environment,
  eventually,
  newEnvironment,
  type Service,
  startService,
} from '../support/kit.ts';
import { withListenersRequired } from './listeners.ts';
import { MEMORY_LINE } from './memory.ts';

/** What honest callers encrypt, and attackers have by chance: it may be in no log and no error. */
export const SECRET = randomBytes(32);
export const PARENT = 'tenants/acme';
export const KEY = `${PARENT}/keys/k`;

/** Of what is reachable: caches fill, code is compiled. */
/** Of the honest caller, so that the processor is left to what the test is about. */
const BETWEEN_CALLS_MS = 20;
const HELD_SLACK_BYTES = 48 * 2 ** 20;

const MEMORY = new URL('./memory.ts', import.meta.url).href;

/** See this file's first paragraph. */
export class HostileService implements AsyncDisposable {
  readonly environment: Environment;
  readonly service: Service;
  readonly peer: Peer;
  readonly keyward: KeywardClient;

  constructor(environment: Environment, service: Service) {
    this.environment = environment;
    this.service = service;
    const { ca, cert, key } = service.connectOptions();
    this.peer = { port: service.port, ca: String(ca), cert: String(cert), key: String(key) };
    // A call that a closing connection refuses was not begun, and goes by the next one.
    this.keyward = service.client({ retries: 2 });
  }

  /** What `attack` returns; meanwhile and afterwards honest calls are made, and must succeed. */
  async staysHonest<T>(attack: (session: ClientHttp2Session) => Promise<T>): Promise<T> {
    const from = this.service.log.length;
    let isOver = false;
    const honest = (async () => {
      do {
        await roundTrip(this.keyward);
        await sleep(BETWEEN_CALLS_MS);
      } while (!isOver);
    })();
    // A failure of either is thrown below; until then it is nobody's.
    honest.catch(() => {});
    let result: T;
    {
      using session = openSession(this.peer);
      try {
        result = await attack(session);
      } finally {
        isOver = true;
      }
    }
    await honest;
    const newcomer = this.service.client({ retries: 2 });
    await roundTrip(newcomer);
    newcomer.close();
    this.#assertNothingLeaked(result, from);
    return result;
  }

  /**
   * A peer with a certificate of the environment's CA for a caller of this name, which has no right
   * at all.
   */
  peerOf(name: string): Peer {
    const { certPem, keyPem } = this.environment.ca.issue({
      subject: name,
      usage: 'client',
      uris: [`spiffe://keyward.test/${name}`],
    });
    return { ...this.peer, cert: certPem, key: keyPem };
  }

  /** What of its memory the server's process can still reach. */
  async heldBytes(): Promise<number> {
    const { log, pid } = this.service;
    const from = log.length;
    process.kill(pid, 'SIGUSR2');
    const { bytes } = await this.service.logged(({ msg }) => msg === MEMORY_LINE, from);
    return Number(bytes);
  }

  /** Waits until it holds little more than that many bytes. */
  async holdsLittleMoreThan(held: number): Promise<void> {
    await eventually(async () => {
      const more = (await this.heldBytes()) - held;
      assert.ok(more <= HELD_SLACK_BYTES, `${more >> 20} MiB more are held than before`);
    });
  }

  /** Resident memory of the server's process. */
  residentBytes(): number {
    const [, kilobytes] =
      /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${this.service.pid}/status`, 'utf8')) ?? [];
    return Number(kilobytes) * 1024;
  }

  /** Sockets that the server's process has open. */
  openSockets(): number {
    return this.#descriptors().filter((target) => target.startsWith('socket:')).length;
  }

  /**
   * Files and sockets that the server's process has open, connections to the database aside: it
   * keeps as it likes.
   */
  openFiles(): number {
    const lent = this.#databaseSockets();
    return this.#descriptors().filter((target) => !lent.has(target)).length;
  }

  #descriptors(): string[] {
    const directory = `/proc/${this.service.pid}/fd`;
    return readdirSync(directory).flatMap((descriptor) => {
      try {
        return [readlinkSync(`${directory}/${descriptor}`)];
      } catch {
        return []; // Closed in between.
      }
    });
  }

  /** As descriptors name them: those whose other end has the database's port. */
  #databaseSockets(): Set<string> {
    const port = Number(new URL(this.environment.urls.service).port)
      .toString(16)
      .toUpperCase()
      .padStart(4, '0');
    const sockets = ['tcp', 'tcp6'].flatMap((table) => {
      const lines = readFileSync(`/proc/${this.service.pid}/net/${table}`, 'utf8')
        .trim()
        .split('\n')
        .slice(1);
      return lines.map((line) => line.trim().split(/\s+/));
    });
    return new Set(
      sockets.flatMap((columns) =>
        columns[2]?.endsWith(`:${port}`) ? [`socket:[${columns[9]}]`] : [],
      ),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.service.stop();
    await this.environment[Symbol.asyncDispose]();
  }

  #assertNothingLeaked(result: unknown, from: number): void {
    const written = JSON.stringify([this.service.log.slice(from), errorsOf(result)]);
    for (const encoding of ['hex', 'base64', 'base64url', 'latin1'] as const) {
      assert.ok(!written.includes(SECRET.toString(encoding)), 'a secret is in a log or an error');
    }
    assert.doesNotMatch(
      written,
      /"outcome":"(INTERNAL|UNKNOWN)"|uncaught|cannot perform a call: it was not admitted/i,
    );
  }
}

/**
 * The service with these settings, with one tenant and one key; `prepare` is done first, and may
 * add to them.
 */
export async function startHostile(
  variables: Readonly<Record<string, string>> = {},
  prepare: (
    environment: Environment,
  ) => Promise<Readonly<Record<string, string>>> = async () => ({}),
): Promise<HostileService> {
  const environment = await newEnvironment();
  const all = { ...variables, ...(await prepare(environment)) };
  const hostile = await startAgain(environment, all);
  await hostile.keyward.createTenant({ tenantId: 'acme' });
  await hostile.keyward.createKey({ parent: PARENT, keyId: 'k' });
  return hostile;
}

/**
 * The service on an environment that has been made already, with its tenant and key if it had them.
 */
export async function startAgain(
  environment: Environment,
  variables: Readonly<Record<string, string>>,
): Promise<HostileService> {
  const { NODE_OPTIONS, ...required } = withListenersRequired(variables);
  const all = { ...required, NODE_OPTIONS: `${NODE_OPTIONS} --import=${MEMORY}` };
  return new HostileService(environment, await startService(environment, all));
}

async function roundTrip(keyward: KeywardClient): Promise<void> {
  const { ciphertext } = await keyward.encrypt({ name: KEY, plaintext: SECRET });
  const { plaintext } = await keyward.decrypt({ parent: PARENT, ciphertext });
  assert.deepEqual(plaintext, SECRET);
}

/** What of an attack's answers was an error: that is where a secret could leak. */
function errorsOf(result: unknown): unknown {
  return Array.isArray(result) ? result.filter((each) => each?.status !== 0) : result;
}
