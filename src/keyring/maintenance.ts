/**
 * The switch for incidents: stops and starts what the service does by itself.
 *
 * What it stops asks for it in each of its transactions, so that it holds at once and on every
 * replica; and the reconciler asks here, before each pass, whether what the database says of it was
 * set by the service. Invariants: a switch that doesn't verify, isn't sealed, or is older than what
 * this replica has verified before, counts as paused, with an alert; setting it needs nothing of
 * what was there before.
 */
import { type Call, monotonicNow } from '../call.ts';
import { RECORD } from '../hsm/record-seal.ts';
import type { Agents } from '../hsm/token-router.ts';
import type { TenantId } from '../ids.ts';
import type { Alerts } from '../signals/alerts.ts';
import type { MutationTx, Tx } from '../store/core/transaction.ts';
import { holdCurrentSealKey } from '../store/hsm-token/token-objects.ts';
import {
  findMaintenance,
  lockMaintenance,
  type MaintenanceRecord,
  type SealedMaintenance,
  writeMaintenance,
} from '../store/lifecycle/maintenance-switch.ts';
import type { Store } from '../store/store.ts';
import type { KeyStates } from './keys/key-states.ts';
import { maintenanceContent } from './seals/maintenance-seal.ts';

const RESOURCE = 'maintenance';
/** What counts where nobody knows who has set it to what. */
const UNKNOWN: MaintenanceRecord = { paused: true, changedAt: null, caller: '' };
/** So long an agent may take while the row is locked. */
const SEAL_MS = 5_000;

/** What {@link Maintenance} stands on. */
export interface MaintenanceParts {
  readonly store: Store;
  readonly agents: Pick<Agents, 'call'>;
  /** Knows which key is current for seals. */
  readonly states: Pick<KeyStates, 'sealer'>;
  /** The reserved tenant, whose audit entries say what is done for the whole service. */
  readonly systemTenantId: TenantId;
  /** Tells the reconciler that there is something to do. */
  readonly wake: () => void;
  readonly alerts: Alerts;
}

/** Pauses and resumes automatic work, for all tenants. */
export class Maintenance {
  readonly #parts: MaintenanceParts;
  /** The newest that verified, and when that was. */
  #seen: { readonly record: SealedMaintenance; readonly at: number } | undefined;
  #moment = 0;

  constructor(parts: MaintenanceParts) {
    this.#parts = parts;
  }

  /** Throws what agents throw. */
  get(call: Call): Promise<MaintenanceRecord> {
    const { store, systemTenantId } = this.#parts;
    return store.read(call, systemTenantId, (tx) => this.#find(tx, call.deadline));
  }

  /**
   * Pausing what is paused, and resuming what is not, changes nothing, unless that doesn't verify.
   */
  async setPaused(call: Call, paused: boolean): Promise<MaintenanceRecord> {
    const { store, systemTenantId: tenantId, wake } = this.#parts;
    const changed = await store.mutate(call, { tenantId, resource: RESOURCE }, (tx) =>
      this.#set(tx, call, paused),
    );
    if (!paused) wake();
    return changed;
  }

  /** Whether automatic work is to rest. Throws what the transaction and agents throw. */
  async isPaused(tx: Tx, deadline: number): Promise<boolean> {
    const readAfter = this.#now();
    const record = await findMaintenance(tx);
    const problem = await this.#problem(record, readAfter, deadline);
    return problem !== undefined || record?.paused !== false;
  }

  async #find(tx: Tx, deadline: number): Promise<MaintenanceRecord> {
    const readAfter = this.#now();
    const record = await findMaintenance(tx);
    const problem = await this.#problem(record, readAfter, deadline);
    return problem === undefined && record !== undefined ? record : UNKNOWN;
  }

  /** What is seen only after this says nothing against what is read now. */
  #now(): number {
    this.#moment += 1;
    return this.#moment;
  }

  async #set(tx: MutationTx, call: Call, paused: boolean): Promise<SealedMaintenance> {
    const { agents, states } = this.#parts;
    const readAfter = this.#now();
    const { before, now } = await lockMaintenance(tx);
    if (before === undefined) throw new Error('the database has lost its maintenance switch');
    const deadline = Math.min(call.deadline, monotonicNow() + SEAL_MS);
    const problem = await this.#problem(before, readAfter, deadline);
    // One that doesn't verify has counted as paused.
    const was = { paused: problem !== undefined || before.paused };
    tx.changed({ kind: 'maintenance', before: was, after: { paused } });
    if (problem === undefined && before.paused === paused) return before;
    const sealKeyId = await holdCurrentSealKey(tx, states.sealer(call));
    const after = {
      revision: newest(before.revision, this.#seen?.record.revision) + 1n,
      paused,
      changedAt: now,
      changedMicroseconds: BigInt(now.getTime()) * 1000n,
      caller: call.caller,
    };
    const content = maintenanceContent(after);
    if (content === undefined) throw new RangeError('a switch that can not be sealed');
    const request = { sealKeyId, kind: RECORD.maintenance, contents: [content] };
    const { seals } = await agents.call('sealRecords', request, deadline);
    if (seals[0] === undefined) throw new Error('an agent sealed nothing');
    const sealed = { ...after, sealKeyId, seal: Buffer.from(seals[0]) };
    await writeMaintenance(tx, sealed);
    return sealed;
  }

  /** Why it doesn't count, of which there is an alert then; undefined where it does. */
  async #problem(
    record: SealedMaintenance | undefined,
    readAfter: number,
    deadline: number,
  ): Promise<string | undefined> {
    const problem = await this.#look(record, readAfter, deadline);
    const { alerts } = this.#parts;
    if (problem === undefined) alerts.clear('maintenance-corrupt', RESOURCE);
    else alerts.raise('maintenance-corrupt', RESOURCE, { problem });
    return problem;
  }

  async #look(
    record: SealedMaintenance | undefined,
    readAfter: number,
    deadline: number,
  ): Promise<string | undefined> {
    if (record === undefined) return 'its row is missing';
    const { sealKeyId, seal, revision } = record;
    if (sealKeyId === null || seal === null) return 'it is not sealed';
    const content = maintenanceContent(record);
    if (content === undefined) return 'its row holds no switch';
    if (!this.#isKnown(content, seal)) {
      const request = { sealKeyId, kind: RECORD.maintenance, items: [{ content, seal }] };
      const { verified } = await this.#parts.agents.call('verifyRecords', request, deadline);
      if (verified[0] !== 1) return 'its seal does not match';
    }
    const { record: newestSeen, at } = this.#seen ?? {};
    if (newestSeen === undefined || at === undefined || revision >= newestSeen.revision) {
      this.#seen = { record, at: this.#now() };
      return undefined;
    }
    if (at > readAfter) return undefined;
    return `its revision is ${revision}, and it was ${newestSeen.revision} before`;
  }

  #isKnown(content: Buffer, seal: Buffer): boolean {
    const known = this.#seen?.record;
    if (known?.seal?.equals(seal) !== true) return false;
    return maintenanceContent(known)?.equals(content) === true;
  }
}

function newest(one: bigint, other = 0n): bigint {
  return one > other ? one : other;
}
