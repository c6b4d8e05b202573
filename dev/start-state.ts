/**
 * What a start writes down about itself, and what another one reads from it.
 *
 * Owns the words for "somebody serves already". Whether somebody does is for the lock to say, never
 * for this file.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { isAlive, type ProcessIdentity } from '../scripts/processes.js';
import { readJsonIfThere } from './files.ts';

/** Describes a start of this clone's environment, as its file records it. */
export interface StartState {
  readonly starter: ProcessIdentity;
  readonly address: string;
  readonly server?: ProcessIdentity;
  readonly serving: boolean;
}

/**
 * Says which process serves, and where; waits up to `milliseconds` for one that is still starting.
 */
export async function whoServes(file: string, milliseconds: number): Promise<string> {
  const until = performance.now() + milliseconds;
  for (;;) {
    const state = readJsonIfThere<StartState>(file);
    const alive = state !== undefined && isAlive(state.starter);
    const starter = alive ? `process ${state.starter.pid}` : 'another process';
    if (alive && state.serving)
      return `cannot start: ${starter} already serves this clone on ${state.address}`;
    if (performance.now() > until) {
      return `cannot start: ${starter} is already starting this clone's environment`;
    }
    await sleep(50);
  }
}
