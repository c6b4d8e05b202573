/**
 * What the kernel says of processes and the machine: CPU time, resident memory, what the machine
 * is.
 */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import os from 'node:os';
import pg from 'pg';
import { findCommand } from '../scripts/system-packages.js';

/** USER_HZ: 100 on every Linux that Node runs on. */
const TICK_MICROSECONDS = 10_000;

/**
 * CPU time that a process has used, in microseconds, to the nearest 10 ms (proc(5): utime, stime).
 */
export function cpuMicroseconds(pid: number): number {
  const { utime, stime } = timesOf(pid);
  return (utime + stime) * TICK_MICROSECONDS;
}

/** That of a process and of all children that it has or had. */
export function cpuMicrosecondsWithChildren(pid: number): number {
  const { utime, stime, cutime, cstime } = timesOf(pid);
  const living = childrenOf(pid).map((child) => {
    try {
      return cpuMicroseconds(child);
    } catch {
      return 0; // It has ended since.
    }
  });
  return living.reduce((a, b) => a + b, (utime + stime + cutime + cstime) * TICK_MICROSECONDS);
}

export function childrenOf(pid: number): number[] {
  const pids = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim();
  return pids === '' ? [] : pids.split(' ').map(Number);
}

/** In ticks; those with a c of children that have ended. */
function timesOf(pid: number) {
  const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const [utime = 0, stime = 0, cutime = 0, cstime = 0] = text
    .slice(text.lastIndexOf(')') + 2)
    .split(' ')
    .slice(11, 15)
    .map(Number);
  return { utime, stime, cutime, cstime };
}

/** A process' resident memory, in megabytes (10^6 bytes). */
export function residentMegabytes(pid: number): number {
  const kibibytes = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
  return (Number(kibibytes) * 1024) / 1e6;
}

/** Returns the date, the machine, what runs on it, and how busy it is: a part of a sentence. */
export async function describeMachine(databaseUrl: string): Promise<string> {
  const [cpu] = os.cpus();
  return [
    `${new Date().toISOString().slice(0, 10)} on ${cpu?.model.trim() ?? 'an unknown processor'}`,
    `${os.cpus().length} cores, ${Math.round(os.totalmem() / 2 ** 30)} GiB`,
    `${os.type()} ${os.release()}`,
    `Node ${process.version}, PostgreSQL ${await postgresVersion(databaseUrl)}`,
    `SoftHSM ${softHsmVersion()}`,
    `load average before ${os.loadavg()[0]?.toFixed(2)}`,
  ].join(', ');
}

async function postgresVersion(connectionString: string): Promise<string> {
  const client = new pg.Client({ connectionString });
  await client.connect();
  try {
    const { rows } = await client.query<{ server_version: string }>('SHOW server_version');
    return rows[0]?.server_version ?? 'unknown';
  } finally {
    await client.end();
  }
}

function softHsmVersion(): string {
  const tool = findCommand('softhsm2-util');
  return tool === undefined
    ? 'unknown'
    : execFileSync(tool, ['--version'], { encoding: 'utf8' }).trim();
}
