/**
 * How agents on one token are started: here as children of this process; `hosted-agents.ts` has
 * them started by a host of agents.
 *
 * A child gets an allow-listed environment, no debugger by signal, no core dump. Doesn't know what
 * is said on the stream, nor when one is to be started or killed.
 */
import { type ChildProcess, type StdioOptions, spawn } from 'node:child_process';
import type { Socket } from 'node:net';
import { fileURLToPath } from 'node:url';
import { type AgentUse, agentVariables, type TokenSettings } from './agent-given.ts';

const MAIN = fileURLToPath(
  new URL(`./agent/main${import.meta.url.endsWith('.ts') ? '.ts' : '.js'}`, import.meta.url),
);
/**
 * How long what a dead agent has written is read on, should another process hold its pipes open.
 */
export const PIPES_MS = 1_000;
/**
 * No debugger by signal; a small young generation, which halves the memory for some 3% of the rate
 * (measured).
 */
const NODE_FLAGS = ['--disable-sigusr1', '--max-semi-space-size=4'];
/** glibc keeps what is freed in up to eight arenas for each core. */
const FEW_ARENAS = { MALLOC_ARENA_MAX: '2' };
/** The longest piece of an agent's own output that is logged: libraries print there. */
const OUTPUT_LIMIT = 500;

/** How an agent ended, was lost from sight while it ran, or why it was not started. */
export type AgentEnd =
  | { readonly code: number | null; readonly signal: string | null }
  | { readonly lost: string }
  | { readonly notStarted: string };

/** Hears what becomes of an agent. */
export interface AgentEvents {
  /** It runs, and this is the stream to it. Called once at most, maybe before `start` returns. */
  onStream(stream: Socket): void;
  onOutput(text: string): void;
  /** Called once, after `start` has returned and all that the agent wrote was handed on. */
  onEnd(end: AgentEnd): void;
}

/** An agent that was asked for. */
export interface StartedAgent {
  /** Absent until it runs. */
  readonly pid: number | undefined;
  /** Ends it at once; its end is reported all the same. */
  kill(): void;
}

/** Starts agents on one token. */
export interface AgentStarter {
  /** The file whose PIN they log in with; absent where a host of agents looks after it. */
  readonly pinFile?: string;
  /** Never throws: what keeps it from starting is an end. */
  start(use: AgentUse, events: AgentEvents): StartedAgent;
}

/** Returns what starts agents as children of this process; `passed` goes to them besides. */
export function childAgents(
  token: TokenSettings,
  passed: Readonly<Record<string, string>>,
): AgentStarter {
  const environment = agentVariables({ token }, passed);
  return {
    pinFile: token.pinFile,
    start: (_use, events) => startChild(environment, events),
  };
}

function startChild(
  environment: Readonly<Record<string, string>>,
  events: AgentEvents,
): StartedAgent {
  try {
    const child = spawnAgent(environment, ['ignore', 'pipe', 'pipe', 'pipe']);
    followChild(child, events);
    const stream = child.stdio?.[3] as Socket | undefined;
    if (stream) events.onStream(stream);
    return {
      get pid() {
        return child.pid;
      },
      kill: () => void child.kill('SIGKILL'),
    };
  } catch (error) {
    // Some failures Node throws (no memory, an environment too large), others it emits later. Here
    // all come later.
    setImmediate(() => events.onEnd({ notStarted: (error as Error).message }));
    return { pid: undefined, kill() {} };
  }
}

/** Starts an agent process. Throws what keeps the system from trying. */
export function spawnAgent(
  environment: Readonly<Record<string, string>>,
  stdio: StdioOptions,
): ChildProcess {
  // The shell is there for its ulimit: Node can't set resource limits.
  return spawn(
    '/bin/sh',
    ['-c', 'ulimit -c 0; exec "$0" "$@"', process.execPath, ...NODE_FLAGS, MAIN],
    { env: { ...FEW_ARENAS, ...environment }, stdio },
  );
}

/** Reports what an agent process prints, and its end, once. */
export function followChild(
  child: ChildProcess,
  { onOutput, onEnd }: Pick<AgentEvents, 'onOutput' | 'onEnd'>,
): void {
  let hasEnded = false;
  const end = (how: AgentEnd) => {
    if (!hasEnded) onEnd(how);
    hasEnded = true;
  };
  // Not once: a process that can't be killed says so each time.
  child.on('error', ({ message }) => {
    if (child.pid === undefined) end({ notStarted: message });
    else onOutput(message);
  });
  // Without a descriptor to spare there are no streams at all, and an error to come (measured).
  const { stdio = [] as unknown as ChildProcess['stdio'] } = child;
  for (const output of [stdio[1], stdio[2]]) {
    output?.on('data', (chunk: Buffer) => onOutput(chunk.toString('utf8').slice(0, OUTPUT_LIMIT)));
    output?.on('error', ({ message }) => onOutput(message));
  }
  child.once('close', (code, signal) => end({ code, signal }));
  // That event waits until nobody holds the pipes any more, and a process that a library left
  // behind may never end.
  child.once('exit', (code, signal) => setTimeout(end, PIPES_MS, { code, signal }).unref());
}
