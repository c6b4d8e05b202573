/**
 * The server as processes: its one-off commands, and the one that serves, from spawn to a bounded
 * end.
 *
 * Everything runs in a session of its own, so that Ctrl-C reaches only us and nothing is cut off
 * half-way; and so that the HSM agents of a killed server can be found. Its JSON log goes to a file
 * and is made readable when something fails.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, existsSync, openSync, readFileSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import {
  endProcess,
  identify,
  type ProcessIdentity,
  restOfSession,
  workingDirectory,
} from '../scripts/processes.js';

const MAIN = join('src', 'main.ts');
/** As the image runs it. */
const NODE_FLAGS = ['--disable-sigusr1', '--max-semi-space-size=8'];
const FEW_ARENAS = { MALLOC_ARENA_MAX: '2' };
const TAIL_LINES = 15;
/** A drain is bounded by the server itself; what outlives this is killed. */
const STOP_STEPS = [
  ['SIGTERM', 20_000],
  ['SIGKILL', 5_000],
] as const;

const AGENT_STOP_STEPS = [
  ['SIGTERM', 1_000],
  ['SIGKILL', 2_000],
] as const;

type Variables = Readonly<Record<string, string>>;

/**
 * Runs a command of the server, as `migrate`, to its end; throws with what it said when it fails.
 */
export async function runServerCommand(
  root: string,
  args: readonly string[],
  variables: Variables,
): Promise<void> {
  const child = spawn(process.execPath, [MAIN, ...args], {
    cwd: root,
    env: { ...process.env, ...variables },
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  const take = (chunk: Buffer) => {
    output += chunk;
  };
  child.stdout.on('data', take);
  child.stderr.on('data', take);
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  if (code !== 0) throw new Error(`cannot run \`${args.join(' ')}\`:\n${readable(output)}`);
}

/** A serving server. */
export interface ServerProcess {
  readonly identity: ProcessIdentity;
  /** Resolves, with how, when the process has ended. */
  readonly ended: Promise<string>;
  /** SIGTERM, time to drain, and an end of whatever is left. */
  stop(): Promise<void>;
  /** The end of its log, readable. */
  logTail(): string;
}

/**
 * Starts serving in `root`, a path without links, from the sources or from what was built of them;
 * the log of the run before is kept beside the new one.
 */
export function spawnServer(
  root: string,
  variables: Variables,
  logFile: string,
  main: string = MAIN,
): ServerProcess {
  if (existsSync(logFile)) renameSync(logFile, `${logFile}.1`);
  const log = openSync(logFile, 'a', 0o600);
  // The role that owns the schema is for migrating alone.
  const { MIGRATION_DATABASE_URL: _owner, ...env }: NodeJS.ProcessEnv = {
    ...FEW_ARENAS,
    ...process.env,
    ...variables,
  };
  const child = spawn(process.execPath, [...NODE_FLAGS, main, 'serve'], {
    cwd: root,
    env,
    detached: true,
    stdio: ['ignore', log, log],
  });
  closeSync(log);
  const ended = endOf(child);
  const identity = child.pid === undefined ? undefined : identify(child.pid);
  if (identity === undefined) throw new Error('cannot start the server');
  return {
    identity,
    ended,
    stop: () => endServer(identity, root),
    logTail: () => readable(readFileSync(logFile, 'utf8')),
  };
}

/** Ends a server and whatever is left of its session, whoever started it. */
export async function endServer(identity: ProcessIdentity, root: string): Promise<void> {
  if (!(await endProcess(identity, STOP_STEPS)))
    throw new Error(`cannot stop the server: process ${identity.pid} does not end`);
  // Its agents end when their channel does; one that hangs in its library doesn't notice.
  const agents = restOfSession(identity).filter(({ pid }) => workingDirectory(pid) === root);
  await Promise.all(agents.map((agent) => endProcess(agent, AGENT_STOP_STEPS)));
}

function endOf(child: ChildProcess): Promise<string> {
  return new Promise((resolve) => {
    child.once('error', (error) => resolve(error.message));
    child.once('exit', (code, signal) => resolve(signal === null ? `exit code ${code}` : signal));
  });
}

const LEVELS: Readonly<Record<number, string>> = {
  10: 'trace',
  20: 'debug',
  30: 'info',
  40: 'warn',
  50: 'error',
  60: 'fatal',
};

/** The last lines of a log: JSON lines as time, level and message, anything else as it is. */
function readable(log: string): string {
  const lines = log.trim().split('\n').slice(-TAIL_LINES);
  return lines.map((line) => `  ${readableLine(line)}`).join('\n');
}

function readableLine(line: string): string {
  if (!line.startsWith('{')) return line;
  try {
    const { time, level, msg, err, ...rest } = JSON.parse(line) as Record<string, unknown>;
    const { pid: _pid, hostname: _hostname, ...facts } = rest;
    const shown = [
      typeof time === 'number' ? new Date(time).toISOString() : time,
      LEVELS[Number(level)] ?? level,
      msg,
      Object.keys(facts).length > 0 ? JSON.stringify(facts) : undefined,
      typeof err === 'object' && err !== null && 'message' in err ? `(${err.message})` : undefined,
    ];
    return shown.filter((part) => part !== undefined && part !== '').join(' ');
  } catch {
    return line;
  }
}
