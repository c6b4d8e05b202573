/**
 * What the sequencer remembers of who writes: of each replica the last number of each stream.
 *
 * Invariants: it is kept under an HMAC of the HSM's together with the size of the tree that it goes
 * with, so that an older one does not fit the log as it is; a replica that was forgotten is never
 * taken for a new one, since a replica's UUID has the time of its start. Knows no row's content.
 */
import { createHash, createHmac, type KeyObject } from 'node:crypto';
import { type AnyId, idToBytes } from '../ids.ts';
import type { RowPlace } from '../store/audit/streams.ts';

const LABEL = Buffer.from('keyward/v1/audit-writers\0', 'latin1');
/** So many replicas are remembered in any case; more, as long as they are heard of. */
const REPLICAS = 512;
const SILENT_MS = 30 * 86_400_000;

interface Replica {
  /** When it was heard of last, in milliseconds since 1970. */
  heardAt: number;
  /** The last number of each stream. */
  readonly last: Map<number, number>;
}

/** Remembers the last number of every stream. */
export class Writers {
  readonly #replicas = new Map<AnyId, Replica>();
  /** Replicas that were started up to then and are not remembered were forgotten. */
  #forgottenUpTo = 0;

  /** Reads what {@link Writers.content} was. Throws an Error for anything else. */
  static parse(content: string): Writers {
    const writers = new Writers();
    const { forgottenUpTo, replicas } = JSON.parse(content) as {
      forgottenUpTo: number;
      replicas: [AnyId, number, [number, number][]][];
    };
    writers.#forgottenUpTo = forgottenUpTo;
    for (const [replicaId, heardAt, last] of replicas)
      writers.#replicas.set(replicaId, { heardAt, last: new Map(last) });
    return writers;
  }

  /** As it is kept. */
  get content(): string {
    const replicas = [...this.#replicas].map(([replicaId, { heardAt, last }]) => [
      replicaId,
      heardAt,
      [...last],
    ]);
    return JSON.stringify({ v: 1, forgottenUpTo: this.#forgottenUpTo, replicas });
  }

  /** Returns the number that the stream's next row has; undefined for a replica once forgotten. */
  next({ replicaId, stream }: RowPlace): number | undefined {
    const replica = this.#replicas.get(replicaId);
    if (replica === undefined && startedAt(replicaId) <= this.#forgottenUpTo) return undefined;
    return (replica?.last.get(stream) ?? 0) + 1;
  }

  /** Returns the last number of a stream; 0 before the first. */
  last(replicaId: AnyId, stream: number): number {
    return this.#replicas.get(replicaId)?.last.get(stream) ?? 0;
  }

  /** Remembers a row as its stream's last. */
  note({ replicaId, stream, number }: RowPlace, now: number): void {
    const replica = this.#replicas.get(replicaId) ?? { heardAt: now, last: new Map() };
    replica.heardAt = now;
    replica.last.set(stream, number);
    this.#replicas.set(replicaId, replica);
    if (this.#replicas.size > REPLICAS) this.#forget(now);
  }

  #forget(now: number): void {
    for (const [replicaId, { heardAt }] of this.#replicas) {
      if (heardAt > now - SILENT_MS) continue;
      this.#replicas.delete(replicaId);
      this.#forgottenUpTo = Math.max(this.#forgottenUpTo, startedAt(replicaId));
    }
  }
}

/** Returns the HMAC over what is remembered, for a tree of that size. */
export function writersMac(key: KeyObject, treeSize: number, content: string): Buffer {
  const size = Buffer.alloc(8);
  size.writeBigUInt64BE(BigInt(treeSize));
  return createHmac('sha256', key)
    .update(LABEL)
    .update(size)
    .update(createHash('sha256').update(content).digest())
    .digest();
}

/** When a replica was started, by its UUID (RFC 9562, version 7). */
function startedAt(replicaId: AnyId): number {
  return idToBytes(replicaId).readUIntBE(0, 6);
}
