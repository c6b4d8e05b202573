/**
 * Makes the log: entries become leaves, in one order for all replicas, and checkpoints are signed
 * over them.
 *
 * Invariants: one replica at a time, by a lease with a fence; a step is one transaction, so a
 * replica that ends anywhere leaves nothing to repair and another goes on within seconds; nothing
 * is signed that is shorter than what was signed before, or another of the same length, as far as
 * the agent, the database and the checkpoint kept outside remember; while they contradict each
 * other the log stands still, and says so, until an operator has it go on. Entries are not held up
 * by any of this: they are durable before.
 */
import { createPublicKey } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { monotonicNow } from '../call.ts';
import type { Agents } from '../hsm/token-router.ts';
import type { EnvironmentId } from '../ids.ts';
import {
  acquireLease,
  findLastCheckpoint,
  findTile,
  insertCheckpoint,
  moveEntries,
  releaseLease,
  withLease,
  writeTree,
} from '../store/audit/audit-log.ts';
import type { Tx } from '../store/core/transaction.ts';
import type { Store } from '../store/store.ts';
import { contradictionOf } from './continuity.ts';
import { type KeptCheckpoint, readKept } from './kept-checkpoint.ts';
import { TreeEdge, TreeReader } from './tree.ts';

/** How often it is looked for entries. */
const PERIOD_MS = 250;
/** How often who has no lease tries for it, and who was refused looks again. */
const RETRY_MS = 1_000;
/** Entries in one step, or a few more: a group of them is at most a quarter of that. */
const LIMIT = 8_192;
const STEP_MS = 10_000;

export interface SequencerLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

export interface SequencerParts {
  readonly store: Store;
  readonly agents: Pick<Agents, 'call'>;
  readonly environmentId: EnvironmentId;
  /** How long after one checkpoint the next is signed, while there is news. */
  readonly checkpointPeriodMs: number;
  /** Where the last checkpoint is kept besides. */
  readonly kept: readonly KeptCheckpoint[];
  readonly log: SequencerLog;
}

/** What holds the lease knows. */
interface Tenure {
  readonly fence: string;
  readonly generation: number;
  edge: TreeEdge;
  /** Of which size the last checkpoint is, and when it was made. */
  signedSize: number;
  signedAt: number;
}

/** Makes leaves of entries, and has checkpoints of them signed. */
export class Sequencer {
  readonly #parts: SequencerParts;
  readonly #stopping = new AbortController();
  #running: Promise<void> | undefined;
  #tenure: Tenure | undefined;
  /** What contradicts what; said once, until it changes. */
  #contradiction: string | undefined;

  constructor(parts: SequencerParts) {
    this.#parts = parts;
  }

  /** Begins, and goes on until {@link Sequencer.stop}. */
  start(): void {
    this.#running ??= this.#run();
  }

  /** Whether it is this replica that lengthens the log, as far as it knows. */
  get holdsLease(): boolean {
    return this.#tenure !== undefined;
  }

  /** Ends after the step that is under way, and lets another replica go on. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#running;
    const { store, kept, log } = this.#parts;
    if (this.#tenure === undefined) return;
    // Before another replica goes on, and has a later one to keep.
    await Promise.all(kept.map((place) => this.#keeping(place.flush?.())));
    await releaseLease(store, deadline(), this.#tenure.fence).catch((err: unknown) =>
      log.warn({ err }, 'cannot give back the lease of the audit log'),
    );
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopping;
    while (!signal.aborted) {
      const pause = await this.#pass().catch((err: unknown) => {
        this.#parts.log.warn({ err }, 'cannot extend the audit log; trying again');
        // What became of the step isn't known: the next reads anew how the log stands.
        this.#tenure = undefined;
        return RETRY_MS;
      });
      if (pause > 0) await delay(pause, undefined, { signal }).catch(() => {});
    }
  }

  /** One step of whatever is next. Returns how many milliseconds to wait for the one after. */
  async #pass(): Promise<number> {
    this.#tenure ??= await this.#takeOver();
    if (this.#tenure === undefined) return RETRY_MS;
    const moved = await this.#lengthen(this.#tenure);
    if (moved === undefined) {
      this.#tenure = undefined;
      return RETRY_MS;
    }
    await this.#sign(this.#tenure);
    return moved >= LIMIT ? 0 : PERIOD_MS;
  }

  async #takeOver(): Promise<Tenure | undefined> {
    const { store, kept, environmentId } = this.#parts;
    const fence = await acquireLease(store, deadline());
    if (fence === undefined) return undefined;
    const notes = await readKept(kept);
    const tenure = await withLease(store, deadline(), fence, async (tx, state) => {
      const last = await findLastCheckpoint(tx);
      const reader = new TreeReader((level, index) => findTile(tx, level, index));
      const log = { ...state, environmentId };
      const contradiction = await contradictionOf(
        last ? [...notes, last.note] : notes,
        log,
        reader,
      );
      this.#say(contradiction);
      if (contradiction !== undefined) return undefined;
      const edge = await TreeEdge.read(state.treeSize, (level, index) =>
        findTile(tx, level, index),
      );
      return {
        fence,
        generation: state.generation,
        edge,
        signedSize: last?.treeSize ?? 0,
        signedAt: Number.NEGATIVE_INFINITY,
      };
    });
    if (tenure === undefined) await releaseLease(store, deadline(), fence);
    return tenure;
  }

  #say(contradiction: string | undefined): void {
    const { log } = this.#parts;
    if (contradiction === this.#contradiction) return;
    this.#contradiction = contradiction;
    if (contradiction === undefined) log.info({}, 'the audit log is extended again');
    else
      log.error(
        { contradiction },
        'the audit log contradicts a signed checkpoint and is not extended; if an older database was restored, see docs/audit.md',
      );
  }

  /**
   * Makes leaves of entries that wait. Returns of how many; undefined when the lease is another's.
   */
  async #lengthen(tenure: Tenure): Promise<number | undefined> {
    const moved = await withLease(
      this.#parts.store,
      deadline(),
      tenure.fence,
      async (tx, { treeSize }) => {
        if (treeSize !== tenure.edge.size)
          throw new Error('cannot extend the audit log: another process has extended it');
        return this.#move(tx, tenure.edge);
      },
    );
    if (moved === undefined) return undefined;
    const count = moved.size - tenure.edge.size;
    tenure.edge = moved;
    return count;
  }

  async #move(tx: Tx, before: TreeEdge): Promise<TreeEdge> {
    const leafHashes = await moveEntries(tx, before.size, LIMIT);
    if (leafHashes.length === 0) return before;
    const { edge, tiles } = before.append(leafHashes);
    await writeTree(tx, edge.size, tiles);
    return edge;
  }

  async #sign(tenure: Tenure): Promise<void> {
    const { store, agents, kept, log } = this.#parts;
    const { edge, generation } = tenure;
    const isDue = monotonicNow() - tenure.signedAt >= this.#parts.checkpointPeriodMs;
    if (edge.size === tenure.signedSize || !isDue) return;
    tenure.signedAt = monotonicNow();
    const rootHash = edge.root();
    const request = { generation, treeSize: edge.size, rootHash: rootHash.toString('base64') };
    const signed = await agents
      .call('signCheckpoint', request, monotonicNow() + STEP_MS)
      .catch((err: unknown) => log.warn({ err }, 'cannot sign a checkpoint'));
    if (signed === undefined) return;
    if ('conflictsWith' in signed) {
      this.#say(
        `a checkpoint of ${signed.conflictsWith} leaves was signed before one of ${edge.size}`,
      );
      return;
    }
    const publicKey = createPublicKey({
      key: Buffer.from(signed.spki, 'base64'),
      format: 'der',
      type: 'spki',
    }).export({ format: 'pem', type: 'spki' });
    const checkpoint = {
      treeSize: edge.size,
      generation,
      rootHash,
      note: signed.note,
      publicKey: publicKey.toString(),
      signedAt: new Date(),
    };
    const written = await withLease(store, deadline(), tenure.fence, async (tx) => {
      await insertCheckpoint(tx, checkpoint);
      return true;
    });
    if (written === undefined) return;
    tenure.signedSize = edge.size;
    await Promise.all(kept.map((place) => this.#keeping(place.write(signed.note))));
  }

  /** Where it can't be kept it is said, and the log goes on. */
  #keeping(kept: Promise<void> | undefined): Promise<void> | undefined {
    return kept?.catch((err: unknown) =>
      this.#parts.log.warn({ err }, 'cannot keep the last checkpoint outside the database'),
    );
  }
}

function deadline(): { readonly deadline: number } {
  return { deadline: monotonicNow() + STEP_MS };
}
