/**
 * What agents say of their own work, added up over all that there have been.
 *
 * Sums only grow, also when an agent ends: what it last said stays in them. What it did after that
 * is not known.
 */
import type { AgentFigures } from './protocol.ts';

/** How often an operation was worked on, and for how long in all. */
export interface OperationFigures {
  readonly count: number;
  readonly seconds: number;
}

/** Adds up the figures of agents that come and go. */
export class AgentMeasurements<Agent> {
  readonly #last = new Map<Agent, AgentFigures>();
  /** What ended agents have done. */
  readonly #past = new Map<string, OperationFigures>();

  /** Notes what an agent has said. */
  take(agent: Agent, figures: AgentFigures): void {
    this.#last.set(agent, figures);
  }

  /** Counts all agents but these as ended. */
  keepOnly(agents: ReadonlySet<Agent>): void {
    for (const [agent, { operations }] of this.#last) {
      if (agents.has(agent)) continue;
      add(this.#past, operations);
      this.#last.delete(agent);
    }
  }

  /** Key versions that agents hold unwrapped. */
  get keysLoaded(): number {
    return [...this.#last.values()].reduce((sum, { keysLoaded }) => sum + keysLoaded, 0);
  }

  /** Epochs whose keys agents keep. */
  get epochsKept(): number {
    return [...this.#last.values()].reduce((sum, { epochsKept }) => sum + epochsKept, 0);
  }

  /** What all agents have done, by the operation's name. */
  get operations(): ReadonlyMap<string, OperationFigures> {
    const all = new Map(this.#past);
    for (const { operations } of this.#last.values()) add(all, operations);
    return all;
  }
}

function add(to: Map<string, OperationFigures>, more: AgentFigures['operations']): void {
  for (const [name, { count, seconds }] of Object.entries(more)) {
    const before = to.get(name);
    to.set(name, {
      count: (before?.count ?? 0) + count,
      seconds: (before?.seconds ?? 0) + seconds,
    });
  }
}
