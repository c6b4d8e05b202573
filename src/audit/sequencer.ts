/**
 * Makes the log: entries become leaves, in one order for all replicas, and checkpoints are signed
 * over them.
 *
 * Invariants: one replica at a time, by a lease with a fence; a step is one transaction, so a
 * replica that ends anywhere leaves nothing to repair and another goes on within seconds; nothing
 * is signed but what is proven to continue what was signed before, as far as the agents, this
 * process, the database and the checkpoint kept outside remember; while they contradict each other
 * nothing is signed, which is said, until an operator resumes the log. Entries are not held up by
 * any of this: they are durable before.
 */
import { createPublicKey } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { monotonicNow } from '../call.ts';
import type { CheckpointReply, CheckpointRequest } from '../hsm/protocol.ts';
import { type BegunGeneration, chainOf } from '../hsm/resumption.ts';
import type { Agents } from '../hsm/token-router.ts';
import type { EnvironmentId, TenantId } from '../ids.ts';
import type { Alerts } from '../signals/alerts.ts';
import {
  acquireLease,
  findLastCheckpoint,
  findTile,
  insertCheckpoint,
  listGenerations,
  releaseLease,
  withLease,
  writeTree,
} from '../store/audit/audit-log.ts';
import type { Tx } from '../store/core/transaction.ts';
import type { Store } from '../store/store.ts';
import { contradictionOf, unbegun } from './continuity.ts';
import { Inbox, type InboxProblem } from './inbox.ts';
import { type KeptCheckpoint, readKept } from './kept-checkpoint.ts';
import { type Contradiction, Standstill } from './standstill.ts';
import { TamperedLog, TreeEdge, TreeReader } from './tree.ts';
import { WaitingEntries } from './waiting-entries.ts';

/** How often it is looked for entries. */
const PERIOD_MS = 250;
/** How often who has no lease tries for it, and who was refused looks again. */
const RETRY_MS = 1_000;
/** Entries in one step, or a few more: a group of them is at most a quarter of that. */
const LIMIT = 8_192;
const STEP_MS = 10_000;
/** Agents that each remember another checkpoint may each ask for a proof; there are not so many. */
const PROOFS = 64;

export interface SequencerLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
}

export interface SequencerParts {
  readonly store: Store;
  readonly agents: Pick<Agents, 'call'>;
  readonly environmentId: EnvironmentId;
  readonly systemTenantId: TenantId;
  /** How long after one checkpoint the next is signed, while there is news. */
  readonly checkpointPeriodMs: number;
  /** Where the last checkpoint is kept besides. */
  readonly kept: readonly KeptCheckpoint[];
  readonly log: SequencerLog;
  readonly alerts: Alerts;
}

/** What holds the lease knows. */
interface Tenure {
  readonly fence: string;
  readonly generation: number;
  edge: TreeEdge;
  /** How its generation was begun; undefined for the first. */
  readonly begun: BegunGeneration | undefined;
  /** Signed checkpoints that the next must continue. */
  known: readonly string[];
  /** The note of the last checkpoint, of which size it is, and when it was made. */
  note: string | undefined;
  signedSize: number;
  signedAt: number;
}

/** Makes leaves of entries, and has checkpoints of them signed. */
export class Sequencer {
  readonly #parts: SequencerParts;
  readonly #inbox: Inbox;
  readonly #stopping = new AbortController();
  #running: Promise<void> | undefined;
  #tenure: Tenure | undefined;
  readonly #standstill: Standstill;
  readonly #waiting: WaitingEntries;
  /** What this process has had signed last: the database may have lost it. */
  #signed: string | undefined;

  constructor(parts: SequencerParts) {
    this.#parts = parts;
    this.#standstill = new Standstill(parts);
    this.#inbox = new Inbox(parts);
    this.#waiting = new WaitingEntries(parts);
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
        if (err instanceof TamperedLog)
          this.#standstill.contradicted({ contradiction: err.message }, this.#tenure?.note);
        else this.#parts.log.warn({ err }, 'cannot extend the audit log; trying again');
        // What became of the step isn't known: the next reads anew how the log stands.
        this.#tenure = undefined;
        return RETRY_MS;
      });
      // The one that makes leaves of them sees them go.
      if (this.#tenure === undefined || this.#waiting.isReported)
        await this.#waiting
          .look()
          .catch((err: unknown) =>
            this.#parts.log.warn({ err }, 'cannot look which entries of the audit log wait'),
          );
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
    if (fence === undefined) return this.#look();
    const notes = await readKept(kept);
    const tenure = await withLease(store, deadline(), fence, async (tx, state) => {
      const last = await findLastCheckpoint(tx);
      const reader = new TreeReader((level, index) => findTile(tx, level, index));
      const log = { ...state, environmentId };
      const known = [...new Set([...notes, ...(last ? [last.note] : []), ...this.#ownNote])];
      const chain = chainOf(state.generation, await listGenerations(tx), environmentId);
      const contradiction =
        (await unbegun(log, chain, reader)) ?? (await contradictionOf(known, log, reader));
      if (contradiction !== undefined) {
        this.#standstill.contradicted({ contradiction }, last?.note);
        return undefined;
      }
      const edge = await TreeEdge.read(state.treeSize, (level, index) =>
        findTile(tx, level, index),
      );
      return {
        fence,
        generation: state.generation,
        begun: chain?.[0],
        edge,
        known,
        note: last?.note,
        signedSize: last?.generation === state.generation ? last.treeSize : 0,
        signedAt: Number.NEGATIVE_INFINITY,
      };
    });
    if (tenure === undefined) await releaseLease(store, deadline(), fence);
    return tenure;
  }

  /** Another replica has the lease: whether it signs, after this one has reported a standstill. */
  async #look(): Promise<undefined> {
    if (!this.#standstill.isReported) return;
    const last = await this.#parts.store.reconcile(deadline(), findLastCheckpoint);
    this.#standstill.signed(last?.note);
  }

  get #ownNote(): string[] {
    return this.#signed === undefined ? [] : [this.#signed];
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
        return this.#move(tx, tenure);
      },
    );
    if (moved === undefined) return undefined;
    const count = moved.edge.size - tenure.edge.size;
    tenure.edge = moved.edge;
    for (const problem of moved.problems) this.#sayProblem(problem);
    return count;
  }

  async #move(
    tx: Tx,
    { edge: before, begun }: Tenure,
  ): Promise<{ readonly edge: TreeEdge; readonly problems: readonly InboxProblem[] }> {
    const first = begun?.from.treeSize === before.size ? [begun.leaf] : [];
    const { leafHashes, problems } = await this.#inbox.take(tx, before.size, LIMIT, first);
    if (leafHashes.length === 0) return { edge: before, problems };
    const { edge, tiles } = before.append(leafHashes);
    await writeTree(tx, edge.size, tiles);
    return { edge, problems };
  }

  #sayProblem(problem: InboxProblem): void {
    this.#parts.alerts.raise('audit-inbox', `replica ${problem.replica}`, problem);
  }

  async #sign(tenure: Tenure): Promise<void> {
    const { store, kept } = this.#parts;
    const { edge, generation } = tenure;
    const isDue = monotonicNow() - tenure.signedAt >= this.#parts.checkpointPeriodMs;
    if (edge.size === tenure.signedSize || !isDue) return;
    tenure.signedAt = monotonicNow();
    const rootHash = edge.root();
    const signed = await this.#signature(tenure, rootHash).catch((err: unknown) => {
      if (err instanceof TamperedLog) throw err;
      this.#standstill.failed(err, tenure.note);
    });
    if (signed === undefined) return;
    if (!('note' in signed)) {
      this.#standstill.contradicted(refusalOf(signed, tenure), tenure.note);
      return;
    }
    this.#signed = signed.note;
    tenure.known = [signed.note];
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
    // Of the first generation nobody has been told another.
    if (tenure.signedSize === 0 && generation > 1)
      this.#parts.alerts.raise('audit-generation-changed', 'audit log', {
        ...{ generation, treeSize: edge.size, from: tenure.begun?.from.treeSize },
      });
    tenure.signedSize = edge.size;
    tenure.note = signed.note;
    this.#standstill.signed(signed.note);
    await Promise.all(kept.map((place) => this.#keeping(place.write(signed.note))));
  }

  /** Asks an agent, and again with each proof that it, or another one, finds lacking. */
  async #signature(
    { generation, begun, edge, known, signedSize }: Tenure,
    rootHash: Buffer,
  ): Promise<Exclude<CheckpointReply, { readonly needsProofFrom: number }>> {
    const claim = { generation, treeSize: edge.size, rootHash: rootHash.toString('base64') };
    // Mostly it is this one that is wanted.
    const proofs =
      signedSize > 0 && signedSize < edge.size ? [await this.#proof(signedSize, edge.size)] : [];
    let shown: Pick<CheckpointRequest, 'resumption'> = {};
    while (proofs.length <= PROOFS) {
      const request = { ...claim, known, proofs, ...shown };
      const deadlineMs = monotonicNow() + STEP_MS;
      const reply = await this.#parts.agents.call('signCheckpoint', request, deadlineMs);
      if ('needsProofFrom' in reply)
        proofs.push(await this.#proof(reply.needsProofFrom, edge.size));
      else if ('resumption' in reply && reply.resumption === 'needed' && begun !== undefined)
        shown = { resumption: await this.#show(begun, edge.size) };
      else return reply;
    }
    throw new Error('cannot sign a checkpoint: agents ask for too many proofs');
  }

  async #show(
    { leaf, from }: BegunGeneration,
    treeSize: number,
  ): Promise<NonNullable<CheckpointRequest['resumption']>> {
    const hashes = await this.#read((reader) => reader.inclusionProof(from.treeSize, treeSize));
    return { leaf, inclusion: hashes.map((hash) => hash.toString('base64')) };
  }

  async #proof(fromSize: number, toSize: number) {
    const hashes = await this.#read((reader) => reader.consistencyProof(fromSize, toSize));
    return { fromSize, hashes: hashes.map((hash) => hash.toString('base64')) };
  }

  /** From the tiles as they are by now: those of another tree would prove nothing. */
  #read<T>(work: (reader: TreeReader) => Promise<T>): Promise<T> {
    return this.#parts.store.sequence(deadline(), (tx) =>
      work(new TreeReader((level, index) => findTile(tx, level, index))),
    );
  }

  /** Where it can't be kept it is said, and the log goes on. */
  #keeping(kept: Promise<void> | undefined): Promise<void> | undefined {
    return kept?.catch((err: unknown) =>
      this.#parts.log.warn({ err }, 'cannot keep the last checkpoint outside the database'),
    );
  }
}

/** Why an agent has signed nothing, and the checkpoint that stands against it. */
function refusalOf(
  refused: Exclude<
    CheckpointReply,
    { readonly needsProofFrom: number } | { readonly note: string }
  >,
  { generation, edge }: Tenure,
): Contradiction {
  if ('resumption' in refused) {
    const contradiction = `generation ${generation} was begun by no note that this token has signed`;
    return { contradiction };
  }
  const { conflictsWith, conflictingNote: checkpoint } = refused;
  return { contradiction: refusalInWords(conflictsWith, edge.size), checkpoint };
}

function refusalInWords(signedSize: number, treeSize: number): string {
  if (signedSize === 0) return 'what is kept as the last checkpoint is not a checkpoint';
  return signedSize > treeSize
    ? `a checkpoint of ${signedSize} leaves was signed before one of ${treeSize}`
    : `the log’s first ${signedSize} leaves are not the ones in the signed checkpoint`;
}

function deadline(): { readonly deadline: number } {
  return { deadline: monotonicNow() + STEP_MS };
}
