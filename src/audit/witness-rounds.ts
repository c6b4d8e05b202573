/**
 * Has the log's last checkpoint cosigned by the witnesses that have a URL: when each is asked, from
 * which size on, and what is said of those that don't answer as they should.
 *
 * Invariants: a round comes a period or more after the one before, in the replica that lengthens
 * the log; in a round all witnesses get the same checkpoint, so that one checkpoint has the
 * cosignatures of all; nothing waits for a witness, neither the log nor another witness nor the
 * next round; a cosignature is kept only once it has verified, one of each witness in each round.
 * What a witness has cosigned before is for the witness to say, so there is nothing here that a
 * restart or another replica could lose. It leaves no audit entries: each would be news, to be
 * signed and cosigned in turn.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { monotonicNow } from '../call.ts';
import { parseNote } from '../hsm/checkpoint.ts';
import type { Alerts } from '../signals/alerts.ts';
import {
  addCosignatures,
  findAuditState,
  findLastCheckpoint,
  findTile,
} from '../store/audit/audit-log.ts';
import type { Deadline } from '../store/core/transaction.ts';
import type { Store } from '../store/store.ts';
import type { SequencerLog } from './sequencer.ts';
import { TreeReader } from './tree.ts';
import { addCheckpoint, type WitnessAnswer } from './witness-client.ts';
import { cosignaturesOf, type Witness } from './witnesses.ts';

/** How often a replica that doesn't lengthen the log looks whether it does by now. */
const LOOK_MS = 1_000;
const STEP_MS = 10_000;
/** After one, two, three failures and more a witness is left alone for so many rounds. */
const REST_ROUNDS = [1, 3, 7] as const;
/** After so many attempts in a row that failed, operators are told. */
const SILENT_AFTER = 3;

/** What the rounds need. */
export interface WitnessRoundsParts {
  readonly store: Pick<Store, 'reconcile'>;
  /** All that are configured. */
  readonly witnesses: readonly Witness[];
  readonly periodMs: number;
  /** Whether this replica lengthens the log. */
  readonly isSequencing: () => boolean;
  readonly log: SequencerLog;
  readonly alerts: Alerts;
}

/** A checkpoint, as far as it matters here. */
interface Checkpoint {
  readonly note: string;
  /** The part of the note that is signed. */
  readonly text: string;
  readonly generation: number;
  readonly treeSize: number;
  readonly cosignatures: readonly string[];
}

/** A witness, and how it stands. */
interface Asked {
  readonly witness: Witness;
  readonly url: string;
  /**
   * The size that it has cosigned last, as far as this replica knows, and of which generation of
   * the log.
   */
  size: number;
  generation: number;
  /** How often it has failed, one after another, and how many rounds it is left alone. */
  failures: number;
  rest: number;
  /** What is under way with it. */
  visit: Promise<void> | undefined;
  /** What was said of it last, so that it is said once. */
  said: string | undefined;
}

/** What a witness has cosigned contradicts the log, in words. */
class Contradiction extends Error {}

/** Asks witnesses for cosignatures of the log's last checkpoint, once a period. */
export class WitnessRounds {
  readonly #parts: WitnessRoundsParts;
  readonly #asked: readonly Asked[];
  readonly #stopping = new AbortController();
  #running: Promise<void> | undefined;

  constructor(parts: WitnessRoundsParts) {
    this.#parts = parts;
    this.#asked = parts.witnesses.flatMap((witness) =>
      witness.url === undefined ? [] : [newlyAsked(witness, witness.url)],
    );
  }

  /** Begins, if there is any witness to ask, and goes on until {@link WitnessRounds.stop}. */
  start(): void {
    if (this.#asked.length > 0) this.#running ??= this.#run();
  }

  /** Ends at once; a witness that has not answered yet is not waited for. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#running;
    await Promise.all(this.#asked.map(({ visit }) => visit));
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopping;
    const { isSequencing, periodMs, log } = this.#parts;
    while (!signal.aborted) {
      const isOurs = isSequencing();
      if (isOurs)
        await this.#round().catch((err: unknown) =>
          log.warn({ err }, 'cannot read the last checkpoint for the witnesses'),
        );
      await delay(isOurs ? periodMs : Math.min(periodMs, LOOK_MS), undefined, { signal }).catch(
        () => {},
      );
    }
  }

  async #round(): Promise<void> {
    // Chosen before it is read: what a visit that ends meanwhile has brought isn't in it.
    const free = this.#asked.filter(({ visit }) => visit === undefined);
    const checkpoint = await this.#lastCheckpoint();
    if (checkpoint === undefined) return;
    for (const asked of free)
      asked.visit = this.#visit(asked, checkpoint).finally(() => {
        asked.visit = undefined;
      });
  }

  /**
   * The last checkpoint of the log as it is; undefined while nothing of this generation is signed.
   */
  #lastCheckpoint(): Promise<Checkpoint | undefined> {
    return this.#parts.store.reconcile(deadline(), async (tx) => {
      const last = await findLastCheckpoint(tx);
      const { generation } = await findAuditState(tx);
      const text = parseNote(last?.note ?? '')?.text;
      return last === undefined || text === undefined || last.generation !== generation
        ? undefined
        : { ...last, text };
    });
  }

  /** What is to be done about one witness in a round. Never rejects. */
  async #visit(asked: Asked, checkpoint: Checkpoint): Promise<void> {
    const { text, cosignatures, generation, treeSize } = checkpoint;
    if (cosignaturesOf(text, cosignatures, [asked.witness])?.length) {
      Object.assign(asked, { size: treeSize, generation });
      return;
    }
    if (asked.rest > 0) {
      asked.rest -= 1;
      return;
    }
    try {
      await this.#haveCosigned(asked, checkpoint);
      Object.assign(asked, { failures: 0, size: treeSize, generation });
      this.#sayCosigned(asked);
    } catch (error) {
      if (this.#stopping.signal.aborted) return;
      asked.rest = REST_ROUNDS[Math.min(asked.failures, REST_ROUNDS.length - 1)] ?? 0;
      asked.failures += 1;
      this.#sayFailed(asked, error as Error);
    }
  }

  /**
   * Asks until the witness has cosigned, at most twice, and keeps its cosignature. Throws an Error,
   * or a Contradiction.
   */
  async #haveCosigned(asked: Asked, checkpoint: Checkpoint): Promise<void> {
    const { text, treeSize } = checkpoint;
    let from = sizeToAskFrom(asked, checkpoint);
    let answer = await this.#ask(asked, checkpoint, from);
    if (answer.kind === 'elsewhere' && answer.size <= treeSize) {
      if (answer.size < from) this.#sayForgotten(asked, from, answer.size);
      from = answer.size;
      Object.assign(asked, { size: from, generation: checkpoint.generation });
      answer = await this.#ask(asked, checkpoint, from);
    }
    if (answer.kind === 'inconsistent')
      throw new Contradiction(
        `the checkpoint of ${treeSize} leaves does not continue the one of ${from} that the witness has cosigned`,
      );
    if (answer.kind === 'elsewhere') throw await this.#whyElsewhere(answer.size);
    const parsed = parseNote(`${text}\n${answer.lines}`);
    if (parsed?.text !== text)
      throw new Error('its answer of status 200 does not consist of signature lines');
    const [line] = cosignaturesOf(text, parsed.signatures, [asked.witness]) ?? [];
    if (line === undefined)
      throw new Error('its answer of status 200 has no cosignature that verifies with its key');
    const kept = await this.#parts.store.reconcile(deadline(), (tx) =>
      addCosignatures(tx, { text, treeSize }, [line]),
    );
    if (kept === undefined)
      throw new Error('the checkpoint that it has cosigned is no longer kept');
  }

  async #ask(
    { url }: Asked,
    { note, treeSize }: Checkpoint,
    oldSize: number,
  ): Promise<WitnessAnswer> {
    const proof =
      oldSize === 0
        ? []
        : await this.#parts.store.reconcile(deadline(), (tx) =>
            new TreeReader((level, index) => findTile(tx, level, index)).consistencyProof(
              oldSize,
              treeSize,
            ),
          );
    return addCheckpoint(url, { oldSize, proof, note }, this.#stopping.signal);
  }

  /**
   * A witness may be further than the checkpoint because another replica was quicker, but not than
   * the log.
   */
  async #whyElsewhere(size: number): Promise<Error> {
    const last = await this.#lastCheckpoint();
    if (last === undefined || last.treeSize >= size)
      return new Error('it has cosigned another checkpoint meanwhile');
    return new Contradiction(
      `the witness has cosigned a checkpoint of ${size} leaves, and the log’s last is of ${last.treeSize}`,
    );
  }

  #sayCosigned(asked: Asked): void {
    if (asked.said === 'cosigns') return;
    asked.said = 'cosigns';
    this.#parts.alerts.clear('audit-witness-contradicted', asked.witness.name);
    this.#parts.alerts.clear('audit-witness-silent', asked.witness.name);
    this.#parts.log.info({ witness: asked.witness.name }, 'a witness cosigns checkpoints');
  }

  #sayForgotten(asked: Asked, cosigned: number, size: number): void {
    this.#parts.log.warn(
      { witness: asked.witness.name, cosigned, size },
      'a witness has forgotten what it has cosigned',
    );
  }

  #sayFailed(asked: Asked, error: Error): void {
    const { log, alerts } = this.#parts;
    const { name: witness } = asked.witness;
    const contradicts = error instanceof Contradiction;
    if (asked.failures === SILENT_AFTER && !contradicts)
      alerts.raise('audit-witness-silent', witness, { witness, failure: error.message });
    const saying = contradicts ? 'contradicts' : `fails: ${error.message}`;
    if (asked.said === saying) return;
    asked.said = saying;
    if (contradicts)
      alerts.raise('audit-witness-contradicted', witness, {
        witness,
        contradiction: error.message,
      });
    else log.warn({ witness, err: error }, 'cannot get a cosignature from a witness');
  }
}

function newlyAsked(witness: Witness, url: string): Asked {
  return {
    witness,
    url,
    size: 0,
    generation: 0,
    failures: 0,
    rest: 0,
    visit: undefined,
    said: undefined,
  };
}

/**
 * What it has cosigned last, as far as is known: 0 otherwise, and then it says itself. Of more than
 * the checkpoint has it must not be asked (C2SP tlog-witness), and says itself as well.
 */
function sizeToAskFrom({ size, generation }: Asked, checkpoint: Checkpoint): number {
  return generation === checkpoint.generation && size <= checkpoint.treeSize ? size : 0;
}

function deadline(): Deadline {
  return { deadline: monotonicNow() + STEP_MS };
}
