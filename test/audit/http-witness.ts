/**
 * A witness of a test's own, on a port of its own: C2SP tlog-witness's add-checkpoint, written from
 * the specification, each MUST in its order. It keeps of each log the size and root that it has
 * cosigned last, in memory.
 *
 * Its invariant: what breaks the specification on the client's side is in `violations`. Knows
 * nothing of the service but its log's public key, and verifies proofs by the client's routine,
 * which shares nothing with the one that makes them.
 */
import { createPublicKey, verify } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { verifyAuditConsistency } from '../../client/src/index.ts';
import { newWitness, sha256, type TestWitness } from './log.ts';

const REQUEST =
  /^old (0|[1-9]\d*)\n((?:[A-Za-z0-9+/]{43}=\n)*)\n(([^\n]+)\n(0|[1-9]\d*)\n([A-Za-z0-9+/]{43}=)\n)\n((?:— .+\n)+)$/;

/** A request, and what it was answered. */
export interface Visit {
  readonly origin: string;
  readonly old: number;
  readonly size: number;
  readonly status: number;
}

/** What a log has shown. */
interface Seen {
  readonly size: number;
  readonly root: Buffer;
}

interface Answer {
  readonly status: number;
  readonly type?: string;
  readonly body?: string;
}

/** See this file's first paragraph. */
export class HttpWitness implements AsyncDisposable {
  readonly key: TestWitness;
  readonly visits: Visit[] = [];
  readonly violations: string[] = [];
  /** Of each origin. */
  readonly seen = new Map<string, Seen>();
  /**
   * Answers instead of it, where it is to do wrong; gets what it would have answered, when it wants
   * that.
   */
  misbehave: ((response: ServerResponse, honestly: () => Answer) => void) | undefined;
  readonly #server = createServer((request, response) => {
    void this.#serve(request, response);
  });
  #publicPem: string | undefined;

  private constructor(name: string) {
    this.key = newWitness(name);
  }

  static async start(name: string): Promise<HttpWitness> {
    const witness = new HttpWitness(name);
    await once(witness.#server.listen(0, '127.0.0.1'), 'listening');
    return witness;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/witness`;
  }

  /** Its line in the service's file of witnesses. */
  get line(): string {
    return `${this.key.verifierKey} ${this.url}/`;
  }

  /** From now on it knows the log that has this key, of whatever origin. */
  trust(publicPem: string): void {
    this.#publicPem = publicPem;
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const body = await text(request).catch(() => undefined);
    if (body === undefined) return;
    const isCall = request.method === 'POST' && request.url === '/witness/add-checkpoint';
    if (!isCall) this.violations.push(`${request.method} ${request.url}`);
    if (this.misbehave !== undefined) {
      this.misbehave(response, () => this.#add(body));
      return;
    }
    send(response, this.#add(body));
  }

  #add(body: string): Answer {
    const [
      ,
      oldText,
      lines = '',
      note = '',
      origin = '',
      sizeText,
      rootText = '',
      signatures = '',
    ] = REQUEST.exec(body) ?? [];
    const proof = lines.split('\n').slice(0, -1);
    if (oldText === undefined || proof.length > 63) {
      this.violations.push(body);
      return { status: 400 };
    }
    const [old, size, root] = [Number(oldText), Number(sizeText), Buffer.from(rootText, 'base64')];
    const answer = this.#judge({ note, origin, signatures }, old, { size, root }, proof);
    this.visits.push({ origin, old, size, status: answer.status });
    return answer;
  }

  #judge(
    { note, origin, signatures }: Readonly<Record<'note' | 'origin' | 'signatures', string>>,
    old: number,
    next: Seen,
    proof: readonly string[],
  ): Answer {
    if (this.#publicPem === undefined) return { status: 404 };
    if (!isSigned(note, origin, signatures, this.#publicPem)) return { status: 403 };
    if (old > next.size) {
      this.violations.push(`old ${old} of ${next.size}`);
      return { status: 400 };
    }
    const last = this.seen.get(origin);
    const known = last?.size ?? 0;
    if (old !== known) return { status: 409, type: 'text/x.tlog.size', body: `${known}\n` };
    if (old === 0 && proof.length > 0) this.violations.push('a proof from 0');
    if (old === next.size && last !== undefined && !last.root.equals(next.root))
      return { status: 409 };
    const hashes = proof.map((line) => Buffer.from(line, 'base64'));
    const claim = { toSize: next.size, toRootHash: next.root, hashes };
    if (
      last !== undefined &&
      !verifyAuditConsistency({ ...claim, fromSize: old, fromRootHash: last.root })
    )
      return { status: 422 };
    this.seen.set(origin, next);
    return { status: 200, body: this.key.cosign(note, Math.floor(Date.now() / 1000)) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    this.#server.close();
    await once(this.#server, 'close');
  }
}

/** Ends a response with an answer. */
export function send(response: ServerResponse, { status, type, body = '' }: Answer): void {
  response.writeHead(status, type === undefined ? {} : { 'content-type': type }).end(body);
}

/**
 * Whether the log's key has signed, ECDSA of type 0x02: the key ID is the beginning of SHA-256 over
 * its SPKI.
 */
function isSigned(note: string, origin: string, signatures: string, publicPem: string): boolean {
  const key = createPublicKey(publicPem);
  const keyId = sha256(key.export({ format: 'der', type: 'spki' })).subarray(0, 4);
  return signatures
    .split('\n')
    .map((line) => line.split(' '))
    .filter(([, name]) => name === origin)
    .map(([, , encoded = '']) => Buffer.from(encoded, 'base64'))
    .some(
      (bytes) =>
        bytes.subarray(0, 4).equals(keyId) &&
        verify('sha256', Buffer.from(note), key, bytes.subarray(4)),
    );
}
