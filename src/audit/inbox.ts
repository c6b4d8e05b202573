/**
 * Makes leaves of what waits in the inbox, as far as it is proven to be what was written.
 *
 * Invariants: a row becomes leaves only with the HMAC of the replica that it names and with the
 * number that comes next in its stream; what is missing, doubled, changed or put in by someone else
 * becomes an entry of its own in `system`, with a digest of what it was; leaves are hashed here,
 * from the bytes that were verified. Once, before anything is remembered of writers, rows without a
 * proof are taken, which is an entry too. Knows no tile and no checkpoint.
 */
import {
  createHash,
  createSecretKey,
  hash,
  type KeyObject,
  randomUUID,
  timingSafeEqual,
} from 'node:crypto';
import { monotonicNow, ownWork } from '../call.ts';
import { KeywardError } from '../errors.ts';
import { leafHash } from '../hsm/merkle.ts';
import type { Agents } from '../hsm/token-router.ts';
import { type AnyId, idToBytes, type TenantId } from '../ids.ts';
import { Lru } from '../lru.ts';
import { auditLine } from '../store/audit/audit-entry.ts';
import {
  findWriters,
  insertLeaves,
  listOldestRows,
  makePartitions,
  moveRows,
  removeRows,
  saveWriters,
  type WaitingRow,
  type WritersRecord,
} from '../store/audit/audit-inbox.ts';
import { type RowPlace, rowMac } from '../store/audit/streams.ts';
import type { Tx } from '../store/core/transaction.ts';
import { NO_REPLICA } from './identity.ts';
import { HASH_BYTES, TamperedLog } from './tree.ts';
import { Writers, writersMac } from './writers.ts';

const DERIVE_MS = 5_000;
/** Keys of so many replicas are kept in memory. */
const KEYS = 10_000;
/** So many entries about rows are made in one step; of what is wrong besides, one says how much. */
const NOTICES = 100;

/**
 * What can be wrong: `missing` numbers; a number `repeated`; a row that is `forged`, as it has no
 * proof or another's, or `malformed`; `unproven` rows, which were taken; `writers-unknown` and
 * `writers-changed`, when what was remembered of writers is not there, or is not what it was.
 */
type ProblemKind =
  | 'missing'
  | 'repeated'
  | 'forged'
  | 'malformed'
  | 'unproven'
  | 'writers-unknown'
  | 'writers-changed'
  | 'more';

/** Something that was wrong, as its entry says it. */
export interface InboxProblem {
  readonly problem: ProblemKind;
  readonly replica?: string;
  readonly stream?: number;
  /** The first and the last number, where they are known. */
  readonly from?: number;
  readonly to?: number;
  readonly rows?: number;
  readonly entries?: number;
  /** Over the SHA-256 of each row's entries, one after another; hexadecimal. */
  readonly sha256?: string;
}

/** What was taken in one step. */
export interface TakenRows {
  /** Of the new leaves, side by side. */
  readonly leafHashes: Buffer;
  readonly problems: readonly InboxProblem[];
}

export interface InboxParts {
  readonly agents: Pick<Agents, 'call'>;
  readonly systemTenantId: TenantId;
}

/** Takes rows out of the inbox, and makes leaves of those that are proven. */
export class Inbox {
  readonly #parts: InboxParts;
  readonly #keys = new Lru<string, KeyObject>(KEYS);
  /** What proves what is remembered of writers. */
  #own: ReplicaKey | undefined;
  /** Whether this process has found anything remembered of writers. */
  #hasWriters = false;

  constructor(parts: InboxParts) {
    this.#parts = parts;
  }

  /**
   * Makes leaves of the oldest entries from `treeSize` on: of about `limit`, since rows stay whole.
   * Throws {@link TamperedLog} when the database has kept other leaves than it was given, and
   * HSM_UNAVAILABLE when a replica's key can't be had. The lines of `first` become leaves before
   * all others.
   */
  async take(
    tx: Tx,
    treeSize: number,
    limit: number,
    first: readonly string[] = [],
  ): Promise<TakenRows> {
    await makePartitions(tx, treeSize, 2 * limit);
    const rows = await listOldestRows(tx, limit);
    if (rows.length + first.length === 0) return { leafHashes: Buffer.alloc(0), problems: [] };
    const problems = new Problems();
    const { writers, takesUnproven } = await this.#writers(tx, treeSize, problems);
    const taken: WaitingRow[] = [];
    const dropped: WaitingRow[] = [];
    for (const row of rows) {
      const isTaken = await this.#isProven(row, writers, takesUnproven, problems);
      (isTaken && row.entryCount > 0 ? taken : dropped).push(row);
    }
    const begun = await this.#add(tx, treeSize, first);
    const rest = await moved(tx, treeSize + sizeOf(begun), taken);
    if (dropped.length > 0) await removeRows(tx, dropped.map(groupNumberOf));
    const found = problems.all;
    const size = treeSize + sizeOf(begun) + sizeOf(rest);
    const added = await this.#add(tx, size, found.map(lineOf));
    await this.#save(tx, size + sizeOf(added), writers);
    return { leafHashes: Buffer.concat([begun, rest, added]), problems: found };
  }

  /** Makes leaves of `system` of lines that were in no row. */
  async #add(tx: Tx, firstIndex: number, lines: readonly string[]): Promise<Buffer> {
    if (lines.length === 0) return Buffer.alloc(0);
    const hashes = await insertLeaves(tx, this.#parts.systemTenantId, firstIndex, lines);
    return requireSame(hashes, lines);
  }

  async #isProven(
    row: WaitingRow,
    writers: Writers,
    takesUnproven: boolean,
    problems: Problems,
  ): Promise<boolean> {
    const place = placeOf(row);
    if (place === undefined && row.mac === null && takesUnproven && isWhole(row)) {
      problems.add('unproven', row);
      return true;
    }
    if (place === undefined || !(await this.#verifies(row, place))) {
      problems.add('forged', row);
      return false;
    }
    const next = writers.next(place);
    if (next === undefined || place.number < next) {
      problems.add('repeated', row);
      return false;
    }
    if (place.number > next) problems.missing(place, next);
    writers.note(place, Date.now());
    if (isWhole(row)) return true;
    problems.add('malformed', row);
    return false;
  }

  async #verifies(row: WaitingRow, place: RowPlace): Promise<boolean> {
    const { maskKeyId, mac } = row;
    if (maskKeyId === null || mac === null || row.isTooLong) return false;
    const key = await this.#keyOf(place.replicaId, maskKeyId);
    return key !== undefined && isSame(mac, rowMac(key.key, place, row));
  }

  /** Undefined where the token has no such mask key. */
  async #keyOf(replicaId: AnyId, maskKeyId?: AnyId): Promise<ReplicaKey | undefined> {
    const known = maskKeyId && this.#keys.get(`${maskKeyId}/${replicaId}`);
    if (maskKeyId !== undefined && known !== undefined) return { key: known, maskKeyId };
    const request = {
      replicaId,
      maskKeyId: maskKeyId === undefined ? Buffer.alloc(0) : idToBytes(maskKeyId),
    };
    const derived = await this.#parts.agents
      .call('deriveWriterKey', request, monotonicNow() + DERIVE_MS)
      .catch((error: unknown) => {
        // A token that was left, and is open here no more.
        if (error instanceof KeywardError && error.reason === 'TOKEN_KEY_NOT_READY')
          return undefined;
        throw error;
      });
    if (derived === undefined || derived.key.length === 0) return undefined;
    const key = createSecretKey(Buffer.from(derived.key));
    this.#keys.set(`${derived.maskKeyId}/${replicaId}`, key);
    return { key, maskKeyId: derived.maskKeyId };
  }

  async #writers(
    tx: Tx,
    treeSize: number,
    problems: Problems,
  ): Promise<{ readonly writers: Writers; readonly takesUnproven: boolean }> {
    const kept = await findWriters(tx);
    if (kept !== undefined && (await this.#fits(kept, treeSize))) {
      this.#hasWriters = true;
      return { writers: Writers.parse(kept.content), takesUnproven: false };
    }
    const isNew = kept === undefined && !this.#hasWriters;
    if (!isNew) problems.add('writers-changed');
    else if (treeSize > 0) problems.add('writers-unknown');
    return { writers: new Writers(), takesUnproven: isNew };
  }

  async #fits({ content, maskKeyId, mac }: WritersRecord, treeSize: number): Promise<boolean> {
    const key = await this.#keyOf(NO_REPLICA, maskKeyId);
    return key !== undefined && isSame(mac, writersMac(key.key, treeSize, content));
  }

  async #save(tx: Tx, treeSize: number, writers: Writers): Promise<void> {
    // While the token is away the log goes on, with the key that was had last.
    this.#own = await this.#keyOf(NO_REPLICA).catch((error: unknown) => {
      if (this.#own === undefined) throw error;
      return this.#own;
    });
    if (this.#own === undefined) throw new Error('the token derives no key for the audit log');
    const { content } = writers;
    const { key, maskKeyId } = this.#own;
    await saveWriters(tx, { content, maskKeyId, mac: writersMac(key, treeSize, content) });
  }
}

interface ReplicaKey {
  readonly key: KeyObject;
  readonly maskKeyId: AnyId;
}

/** Collects what is wrong: of one replica, stream and kind it is one. */
class Problems {
  readonly #found = new Map<string, InboxProblem & { readonly digests: Buffer[] }>();

  add(problem: ProblemKind, row?: WaitingRow): void {
    const { replicaId, stream, number } = row ?? {};
    const name = `${problem} ${replicaId} ${stream}`;
    const before = this.#found.get(name);
    const digests = before?.digests ?? [];
    if (row !== undefined) digests.push(hash('sha256', row.leaves, 'buffer'));
    this.#found.set(name, {
      problem,
      ...(replicaId ? { replica: replicaId } : {}),
      ...(typeof stream === 'number' ? { stream } : {}),
      ...(typeof number === 'number' ? { from: before?.from ?? number, to: number } : {}),
      ...(row === undefined
        ? {}
        : {
            rows: (before?.rows ?? 0) + 1,
            entries: (before?.entries ?? 0) + row.entryCount,
            sha256: createHash('sha256').update(Buffer.concat(digests)).digest('hex'),
          }),
      digests,
    });
  }

  missing({ replicaId, stream, number }: RowPlace, next: number): void {
    this.#found.set(`missing ${replicaId} ${stream} ${next}`, {
      problem: 'missing',
      replica: replicaId,
      stream,
      from: next,
      to: number - 1,
      rows: number - next,
      digests: [],
    });
  }

  get all(): InboxProblem[] {
    const all = [...this.#found.values()].map(({ digests: _, ...problem }) => problem);
    if (all.length <= NOTICES) return all;
    const rest = all.slice(NOTICES).reduce((sum, { rows = 0 }) => sum + rows, 0);
    return [...all.slice(0, NOTICES), { problem: 'more', rows: rest }];
  }
}

function placeOf({ replicaId, stream, number }: WaitingRow): RowPlace | undefined {
  if (replicaId === null || stream === null || number === null) return undefined;
  const isPlace =
    Number.isInteger(stream) &&
    stream >= 0 &&
    stream <= 0xffff_ffff &&
    Number.isSafeInteger(number) &&
    number >= 1;
  return isPlace ? { replicaId, stream, number } : undefined;
}

/** Whether it has as many entries as it says. */
function isWhole({ leaves, entryCount, isTooLong }: WaitingRow): boolean {
  return !isTooLong && linesOf(leaves).length === entryCount;
}

function linesOf(leaves: string): string[] {
  return leaves === '' ? [] : leaves.split('\n');
}

/** How many leaves these hashes are of. */
function sizeOf(leafHashes: Buffer): number {
  return leafHashes.length / HASH_BYTES;
}

function groupNumberOf({ groupNumber }: WaitingRow): string {
  return groupNumber;
}

async function moved(tx: Tx, treeSize: number, rows: readonly WaitingRow[]): Promise<Buffer> {
  if (rows.length === 0) return Buffer.alloc(0);
  const hashes = await moveRows(tx, treeSize, rows.map(groupNumberOf));
  return requireSame(
    hashes,
    rows.flatMap(({ leaves }) => linesOf(leaves)),
  );
}

/** The hashes of the lines. Throws {@link TamperedLog} when the database has kept other lines. */
function requireSame(kept: Buffer, lines: readonly string[]): Buffer {
  const hashes = Buffer.concat(lines.map((line) => leafHash(Buffer.from(line))));
  if (!hashes.equals(kept))
    throw new TamperedLog('the database does not keep the entries that it is given');
  return hashes;
}

/** The entry about it. */
function lineOf({ problem, ...facts }: InboxProblem): string {
  const call = { ...ownWork('VerifyAuditRows'), audit: { detail: { problem, ...facts } } };
  return auditLine({
    entryId: randomUUID(),
    call,
    resource: 'auditLog',
    outcome: 'STORED_ROW_CORRUPT',
  });
}

function isSame(a: Buffer, b: Buffer): boolean {
  return a.length === b.length && timingSafeEqual(a, b);
}
