/**
 * The proof that a row of the audit log's inbox is this process's: whose it is, the number that it
 * has in one of the process's streams, and an HMAC over both and what is in it (docs/audit.md).
 *
 * Invariants: a stream is lent to one transaction at a time, and the next number is given out only
 * once the one before is known to be durable, so that a process that is killed leaves no number
 * out; a stream of which that isn't known is never lent again; rows that were sent are the only
 * ones that have a number. Knows no statement, and nothing of how the key was derived.
 */
import { createHash, createHmac, createSecretKey, type KeyObject } from 'node:crypto';
import { KeywardError } from '../../errors.ts';
import { type AnyId, idToBytes, type TenantId, UUID_BYTES } from '../../ids.ts';

/** Names the kind of record that the HMAC is over. */
const LABEL = Buffer.from('keyward/v1/audit-row\0', 'latin1');
/** Whose a row is that has no entries. */
export const NO_TENANT = '00000000-0000-0000-0000-000000000000' as TenantId;

/** A replica, or a command, as what it writes is proven to be its own. */
export interface WriterIdentity {
  readonly replicaId: AnyId;
  /** By which of the token's keys `key` was derived. */
  readonly maskKeyId: AnyId;
  /** 32 bytes. */
  readonly key: Buffer;
}

/** What a row of the inbox holds. */
export interface InboxRow {
  readonly tenantId: TenantId;
  /** Of a state change. */
  readonly entryId?: string | undefined;
  readonly entryCount: number;
  /** The entries, a line each, the last without a newline. */
  readonly leaves: string;
}

/** Where a row stands among all of its replica. */
export interface RowPlace {
  readonly replicaId: AnyId;
  readonly stream: number;
  readonly number: number;
}

/** A row's proof. */
export interface RowProof extends RowPlace {
  readonly maskKeyId: AnyId;
  readonly mac: Buffer;
}

/** Returns the HMAC over a row. */
export function rowMac(key: KeyObject, place: RowPlace, row: InboxRow): Buffer {
  const numbers = Buffer.alloc(12);
  numbers.writeUInt32BE(place.stream, 0);
  numbers.writeBigUInt64BE(BigInt(place.number), 4);
  const count = Buffer.alloc(4);
  count.writeUInt32BE(row.entryCount);
  return createHmac('sha256', key)
    .update(LABEL)
    .update(idToBytes(place.replicaId))
    .update(numbers)
    .update(idToBytes(row.tenantId))
    .update(row.entryId === undefined ? Buffer.alloc(UUID_BYTES) : idToBytes(row.entryId as AnyId))
    .update(count)
    .update(createHash('sha256').update(row.leaves).digest())
    .digest();
}

/** A stream on loan; whoever has it says what became of its rows. */
export class Stream {
  readonly #number: number;
  readonly #writer: () => OpenWriter | undefined;
  readonly #giveBack: (stream: Stream) => void;
  /** The last number that is known to be durable, and the last that was given out. */
  #durable = 0;
  #given = 0;
  /** Whether a row has said since that there is none after the last. */
  #isClosed = true;

  constructor(
    number: number,
    writer: () => OpenWriter | undefined,
    giveBack: (stream: Stream) => void,
  ) {
    this.#number = number;
    this.#writer = writer;
    this.#giveBack = giveBack;
  }

  /** Whether its last row is not yet said to be the last. */
  get isOpen(): boolean {
    return !this.#isClosed;
  }

  /** Which stream it is, and the last number in it that is known to be durable. */
  get durable(): readonly [stream: number, number: number] {
    return [this.#number, this.#durable];
  }

  /** Returns the next row's proof; undefined for a process that has no identity. */
  prove(row: InboxRow): RowProof | undefined {
    const writer = this.#writer();
    if (writer === undefined) return undefined;
    this.#given += 1;
    const { replicaId, maskKeyId, key } = writer;
    const place = { replicaId, stream: this.#number, number: this.#given };
    return { ...place, maskKeyId, mac: rowMac(key, place, row) };
  }

  /** Its rows are durable. */
  committed({ isLast = false }: { readonly isLast?: boolean } = {}): void {
    if (this.#given > this.#durable) this.#isClosed = isLast;
    this.#durable = this.#given;
    this.#giveBack(this);
  }

  /** Its rows were not written, which is certain. */
  undone(): void {
    this.#given = this.#durable;
    this.#giveBack(this);
  }
}

interface OpenWriter {
  readonly replicaId: AnyId;
  readonly maskKeyId: AnyId;
  readonly key: KeyObject;
}

/** The streams of this process. */
export class WriterStreams {
  readonly #free: Stream[] = [];
  readonly #all: Stream[] = [];
  #writer: OpenWriter | undefined;
  #isAwaited = false;

  /** Has nothing be written before there is an identity to prove it by. */
  awaitIdentity(): void {
    this.#isAwaited = true;
  }

  /** Proves rows by this identity from now on. Its replica must stay the same. */
  use({ replicaId, maskKeyId, key }: WriterIdentity): void {
    // A copy: what came is part of a frame, which is overwritten.
    this.#writer = { replicaId, maskKeyId, key: createSecretKey(Buffer.from(key)) };
  }

  /** Lends a stream. Throws AUDIT_UNAVAILABLE before there is an identity. */
  lend(): Stream {
    if (this.#isAwaited && this.#writer === undefined) throw new KeywardError('AUDIT_UNAVAILABLE');
    return this.#free.pop() ?? this.#newStream();
  }

  /** How many streams nobody has whose last row is not yet said to be the last. */
  get openCount(): number {
    return this.#free.filter(({ isOpen }) => isOpen).length;
  }

  /** Lends one of those, the one that has rested longest. */
  lendOpen(): Stream | undefined {
    const index = this.#free.findIndex(({ isOpen }) => isOpen);
    return index < 0 ? undefined : this.#free.splice(index, 1)[0];
  }

  /** Of each stream, the last number that is known to be durable. */
  get durable(): ReadonlyMap<number, number> {
    return new Map(this.#all.map(({ durable }) => durable));
  }

  #newStream(): Stream {
    const stream = new Stream(
      this.#all.length,
      () => this.#writer,
      (given) => this.#free.push(given),
    );
    this.#all.push(stream);
    return stream;
  }
}
