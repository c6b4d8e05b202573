/**
 * What a bench is, and what it is given: `npm run bench -- NAME` runs one, `npm run bench` all of
 * them but those that run on request only.
 *
 * Invariant: a bench begins with a service that has just been started, whatever ran before it, and
 * makes what else it needs. Knows no bench; `benches.ts` lists them.
 */
import type { Environment } from './environment.ts';
import { type Load, measureSlice, type Target } from './measure.ts';
import type { Sender, Workload } from './workloads.ts';

/** One section of `RESULTS.md`, and what measures it. */
export interface Bench {
  /** What it is called on the command line. */
  readonly name: string;
  /** The heading of its section. */
  readonly title: string;
  /** What it measures, for `--help`: a part of a sentence. */
  readonly measures: string;
  /** Options of its own that take a value, with what that is. */
  readonly options?: Readonly<Record<string, string>>;
  /** Whether it runs only where it is named. */
  readonly onRequest?: boolean;
  run(context: Context): Promise<Section>;
}

/** What came of a bench. */
export interface Section {
  /** Markdown to stand below its heading; headings within are of level 3. */
  readonly text: string;
  /** Lines by {@link target}: what was to be reached, and whether it was. */
  readonly targets: readonly string[];
  /** SVGs by {@link figure}'s names, written to `figures/` beside the results. */
  readonly figures?: Readonly<Record<string, string>>;
}

/** What every bench is given. */
export interface Context {
  /** Whether seconds are to do, and figures say little. */
  readonly isQuick: boolean;
  /** Returns the value of one of the bench's own options, if it was given. */
  readonly option: (name: string) => string | undefined;
  readonly environment: Environment;
  readonly load: Load;
  /** The echo server, and what it is sent. */
  readonly floor: readonly [Target, Workload];
  /** Encrypt first, then the other calls and their batches. */
  readonly calls: readonly Workload[];
  readonly send: Sender;
}

/** Reports progress on the terminal. */
export const say = (line: string) => console.log(line);

/** Returns Encrypt, which most benches call. */
export function encryptOf({ calls: [encrypt] }: Pick<Context, 'calls'>): Workload {
  if (encrypt === undefined) throw new Error('there is no Encrypt');
  return encrypt;
}

/** Sends each workload to the server that it is for, for so long, before anything counts. */
export async function warmUp(
  load: Load,
  pairs: readonly (readonly [Target, Workload])[],
  milliseconds: number,
): Promise<void> {
  const slice = { rampMs: 0, measureMs: milliseconds, inFlight: 10 };
  for (const [target, workload] of pairs) await measureSlice(load, target, workload, slice);
}
