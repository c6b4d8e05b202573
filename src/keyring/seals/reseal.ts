/**
 * Seals of records brought under the current seal key: when that was replaced, and when another
 * token has become current.
 *
 * Invariant: each is verified by the seal key that it names before the one that was verified to be
 * current seals the very bytes that verified, and is written only while the row has the seal that
 * was verified. So it may be cut off anywhere, done by several at once, and done again: what is
 * left is found by what it is sealed by. What doesn't verify stays as it is, and is named. What a
 * kind of record is, its table says; who has the tokens' agents is given.
 */
import { encodeKeyState } from '../../hsm/key-state.ts';
import type { ReplyOf, RequestOf } from '../../hsm/protocol.ts';
import { RECORD, type RecordKind } from '../../hsm/record-seal.ts';
import { encodeTenantState } from '../../hsm/tenant-state.ts';
import type { SealKeyId } from '../../ids.ts';
import { formatKeyName, formatTenantName } from '../../names.ts';
import type { Query } from '../../store/core/transaction.ts';
import {
  FIRST_KEY,
  findFormerSealKeys,
  readStaleStates,
  writeSeals,
} from '../../store/keys/key-seals.ts';
import type { KeyStateRecord } from '../../store/keys/key-states.ts';
import {
  findFormerTenantKeys,
  readStaleTenants,
  rewriteTenantSeals,
} from '../../store/tenants/tenant-seals.ts';
import type { StoredTenant } from '../../store/tenants/tenants.ts';

/**
 * So many are read, and written in one transaction; callers wait for at most 2 ms while an agent is
 * at them.
 */
const BATCH = 100;

/** A record under a seal key that was replaced. */
export interface StaleRecord<Row> {
  readonly row: Row;
  /** Its full name. */
  readonly resource: string;
  /** Undefined for one that can't be what was sealed. */
  readonly content: Buffer | undefined;
  readonly seal: Buffer;
  /** The current seal key. */
  readonly sealKeyId: SealKeyId;
}

/** A record's new seal. */
export interface Resealed<Row> {
  readonly before: Row;
  readonly sealKeyId: SealKeyId;
  readonly seal: Buffer;
}

/** One kind of record, and where it is kept. */
export interface SealedRecords<Row> {
  readonly kind: RecordKind;
  /** Seal keys that were replaced and have any under them. */
  findFormer(query: Query): Promise<SealKeyId[]>;
  /** The next at most `size` under such a key, behind one of them. */
  readStale(
    query: Query,
    former: SealKeyId,
    after: Row | undefined,
    size: number,
  ): Promise<StaleRecord<Row>[]>;
  /**
   * Writes them where the rows have the seals that were read; returns false, having written none,
   * if that mayn't be now.
   */
  write(
    query: Query,
    records: readonly Resealed<Row>[],
    options: { readonly evenIfPaused: boolean },
  ): Promise<boolean>;
}

/** How keys stand. */
export const KEY_STATES: SealedRecords<KeyStateRecord> = {
  kind: RECORD.keyState,
  findFormer: findFormerSealKeys,
  readStale: async (query, former, after, size) =>
    (await readStaleStates(query, former, after ?? FIRST_KEY, size)).map(
      ({ state, tenant, sealKeyId }) => ({
        row: state,
        resource: formatKeyName({ tenant, key: state.name }),
        content: contentOf(() => encodeKeyState(state)),
        seal: state.seal ?? Buffer.alloc(0),
        sealKeyId,
      }),
    ),
  write: writeSeals,
};

/** Tenants. */
export const TENANTS: SealedRecords<StoredTenant> = {
  kind: RECORD.tenant,
  findFormer: findFormerTenantKeys,
  readStale: async (query, former, after, size) =>
    (await readStaleTenants(query, former, after?.claims.tenantId, size)).map(
      ({ stored, sealKeyId }) => ({
        row: stored,
        resource: formatTenantName({ tenant: stored.claims.name }),
        content: contentOf(() => encodeTenantState(stored.claims)),
        seal: stored.seal ?? Buffer.alloc(0),
        sealKeyId,
      }),
    ),
  write: rewriteTenantSeals,
};

function contentOf(encode: () => Buffer): Buffer | undefined {
  try {
    return encode();
  } catch (error) {
    if (error instanceof RangeError) return undefined;
    throw error;
  }
}

/** Who does it. */
export interface ResealHands {
  /** Runs statements in one transaction, with the rights of the reconciler or the owner. */
  transact<T>(work: (query: Query) => Promise<T>): Promise<T>;
  verify(request: RequestOf<'verifyRecords'>): Promise<ReplyOf<'verifyRecords'>>;
  /** Seals what verified again, under another key. */
  seal(request: RequestOf<'resealRecords'>): Promise<ReplyOf<'sealRecords'>>;
  /**
   * Whether the database names the right key as current, which was verified. Throws
   * TOKEN_KEYS_CORRUPT, and Error in words for the operator.
   */
  isCurrentSealKey(sealKeyId: SealKeyId): Promise<boolean>;
  /** Between two batches; returns whether to go on. */
  mayGoOn(): Promise<boolean>;
  /** Hears of those that don't verify. */
  onCorrupt(resource: string): void;
  /** Goes on while maintenance is paused. */
  readonly evenIfPaused: boolean;
}

/** What was done. */
export interface ResealOutcome {
  readonly resealed: number;
  /** Whether nothing is left but what doesn't verify, or mustn't be written now. */
  readonly finished: boolean;
}

/** All kinds of records that are sealed, whatever their rows are. */
export type AllSealedRecords = readonly SealedRecords<unknown>[];

/** As {@link reseal}, of all kinds. */
export async function resealAll(all: AllSealedRecords, hands: ResealHands): Promise<ResealOutcome> {
  let resealed = 0;
  for (const records of all) {
    const outcome = await reseal(records, hands);
    resealed += outcome.resealed;
    if (!outcome.finished) return { resealed, finished: false };
  }
  return { resealed, finished: true };
}

/**
 * Brings all records of a kind under the current seal key. Throws what the hands throw; then
 * running it again goes on.
 */
export async function reseal<Row>(
  records: SealedRecords<Row>,
  hands: ResealHands,
): Promise<ResealOutcome> {
  let resealed = 0;
  for (const former of await hands.transact((query) => records.findFormer(query))) {
    let after: Row | undefined;
    for (;;) {
      const stale = await hands.transact((query) => records.readStale(query, former, after, BATCH));
      after = stale.at(-1)?.row;
      const done = await resealSome(records, hands, former, stale);
      const { evenIfPaused } = hands;
      const written =
        done.length === 0 ||
        (await hands.transact((query) => records.write(query, done, { evenIfPaused })));
      if (!written) return { resealed, finished: true };
      resealed += done.length;
      if (stale.length < BATCH) break;
      if (!(await hands.mayGoOn())) return { resealed, finished: false };
    }
  }
  return { resealed, finished: true };
}

async function resealSome<Row>(
  { kind }: Pick<SealedRecords<Row>, 'kind'>,
  { verify, seal, isCurrentSealKey, onCorrupt }: ResealHands,
  former: SealKeyId,
  stale: readonly StaleRecord<Row>[],
): Promise<Resealed<Row>[]> {
  const readable = stale.flatMap(({ content, ...record }) =>
    content ? [{ ...record, content }] : [],
  );
  const items = readable.map(({ content, seal: before }) => ({ content, seal: before }));
  const { verified } =
    items.length === 0 ? { verified: [] } : await verify({ sealKeyId: former, kind, items });
  const sound = readable.filter((_, index) => verified[index] === 1);
  for (const { resource } of stale.filter(({ row }) => !sound.some((each) => each.row === row)))
    onCorrupt(resource);
  const [first] = sound;
  if (first === undefined) return [];
  const { sealKeyId } = first;
  // Where it was replaced meanwhile, they are found under that one anew.
  if (!(await isCurrentSealKey(sealKeyId))) return [];
  const kept = sound.map(({ content, seal: before }) => ({ content, seal: before }));
  const { seals } = await seal({ formerKeyId: former, sealKeyId, kind, items: kept });
  return sound.map(({ row }, index) => {
    const made = seals[index];
    if (made === undefined) throw new Error('an agent answered for other records');
    return { before: row, sealKeyId, seal: Buffer.from(made) };
  });
}
