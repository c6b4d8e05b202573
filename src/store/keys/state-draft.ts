/**
 * What a transaction means to make of how a key stands: what is sealed when it is done, whatever
 * the rows say by then.
 *
 * Invariant: whoever writes how a key stands says so here as well, once for each time that the
 * revision is counted up, so that nothing that someone else makes of the rows, a trigger say, comes
 * under the seal. One value is the database's: the time that it counts from its own clock.
 */
import type { KeyId } from '../../ids.ts';
import type { Tx } from '../core/transaction.ts';
import type {
  DerivationEpochRecord,
  KeyStateRecord,
  LifecycleState,
  VersionStateRecord,
} from './key-states.ts';

/** A transaction in which the states of one key, which it has locked, may be changed. */
export type StateTx = Tx & { readonly changes: KeyId; readonly draft: StateDraft };

/** What becomes of the key itself; what is absent stays. */
interface KeyIntent {
  readonly state?: LifecycleState;
  readonly destroyAt?: Date | null;
  readonly rotationPeriodSeconds?: number | null;
  readonly nextRotationAt?: Date | null;
  readonly rotationUsageLimit?: number | null;
  readonly maintenancePaused?: boolean;
  readonly derivationEpoch?: DerivationEpochRecord | null;
}

/** How a key is meant to stand. */
export class StateDraft {
  #state: KeyStateRecord;
  /** Whether its next rotation is counted from now, by the database. */
  #countsFromNow = false;
  readonly #before: bigint;

  constructor(before: KeyStateRecord) {
    this.#state = before;
    this.#before = before.revision;
  }

  /** Whether anything was changed. */
  get isChanged(): boolean {
    return this.#state.revision !== this.#before;
  }

  /** As it is meant to be; `read` is as the rows say. */
  after(read: KeyStateRecord): KeyStateRecord {
    if (!this.#countsFromNow) return this.#state;
    const { nextRotationAt } = read.schedule;
    return { ...this.#state, schedule: { ...this.#state.schedule, nextRotationAt } };
  }

  /** Changes the key. */
  changeKey(intent: KeyIntent): void {
    const { schedule } = this.#state;
    const { state, destroyAt, rotationPeriodSeconds: period, nextRotationAt } = intent;
    const { derivationEpoch } = intent;
    this.#put({
      ...(derivationEpoch !== undefined && { derivationEpoch }),
      ...(state !== undefined && { state }),
      ...(destroyAt !== undefined && { destroyAt: microseconds(destroyAt) }),
      schedule: {
        rotationPeriod: amount(period, schedule.rotationPeriod),
        nextRotationAt:
          nextRotationAt === undefined ? schedule.nextRotationAt : microseconds(nextRotationAt),
        rotationUsageLimit: amount(intent.rotationUsageLimit, schedule.rotationUsageLimit),
        maintenancePaused: intent.maintenancePaused ?? schedule.maintenancePaused,
      },
    });
    if (nextRotationAt !== undefined) this.#countsFromNow = false;
    else if (period !== undefined) this.#countFromNow();
  }

  /** Changes one version. */
  changeVersion(version: number, state: LifecycleState, destroyAt: Date | null): void {
    const changed = { version, state, destroyAt: microseconds(destroyAt) };
    this.#putVersions((each) => (each.version === version ? changed : each));
  }

  /** Destroys one version, or all. */
  destroyVersions(version: number | null): void {
    this.#putVersions((each) =>
      version === null || each.version === version ? { ...each, state: 'DESTROYED' } : each,
    );
  }

  /** Destroys the key with all of its versions. */
  destroyKey(): void {
    this.destroyVersions(null);
    this.#state = { ...this.#state, state: 'DESTROYED' };
  }

  /** Adds a version, the highest, and makes it the primary. */
  addPrimary(version: number): void {
    const added = { version, state: 'ENABLED', destroyAt: null } as const;
    this.#put({ primaryVersion: version, versions: [...this.#state.versions, added] });
    this.#countFromNow();
  }

  #countFromNow(): void {
    const { schedule } = this.#state;
    this.#countsFromNow = schedule.rotationPeriod !== null;
    if (!this.#countsFromNow)
      this.#state = { ...this.#state, schedule: { ...schedule, nextRotationAt: null } };
  }

  #putVersions(change: (version: VersionStateRecord) => VersionStateRecord): void {
    this.#put({ versions: this.#state.versions.map(change) });
  }

  #put(changed: Partial<KeyStateRecord>): void {
    this.#state = { ...this.#state, ...changed, revision: this.#state.revision + 1n };
  }
}

function microseconds(time: Date | null): bigint | null {
  return time === null ? null : BigInt(time.getTime()) * 1000n;
}

function amount(given: number | null | undefined, before: bigint | null): bigint | null {
  if (given === undefined) return before;
  return given === null ? null : BigInt(given);
}
