/**
 * Which process is which: a process id together with when it started, so that a process that merely
 * got the id of a dead one is never taken for it, nor killed in its place.
 *
 * Owns reading /proc; decides nothing about what should live or die. Plain JavaScript for Node 20,
 * because set-up uses it before node_modules exists. Linux only: without /proc nothing is ever
 * found alive.
 */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

/** Of /proc, whatever the kernel counts by. */
const TICKS_PER_SECOND = 100;

/**
 * A process as it can be found again: its id, its start in clock ticks since boot, and which boot
 * that was.
 *
 * @typedef {{ readonly pid: number, readonly startTime: number, readonly boot: string }}
 * ProcessIdentity
 */

/**
 * The identity of a live process, or nothing when there is none of that id, or only its zombie.
 *
 * @param {number} pid
 * @returns {ProcessIdentity | undefined}
 */
export function identify(pid) {
  const stat = readStat(pid);
  if (stat === undefined || stat.state === 'Z' || stat.state === 'X') return undefined;
  return { pid, startTime: stat.startTime, boot: bootId() };
}

/**
 * Whether the very process that was identified is alive still.
 *
 * @param {ProcessIdentity} identity
 */
export function isAlive(identity) {
  const now = identify(identity.pid);
  return now !== undefined && now.startTime === identity.startTime && now.boot === identity.boot;
}

/**
 * Sends a signal to that very process; nothing when it is gone.
 *
 * @param {ProcessIdentity} identity
 * @param {NodeJS.Signals} signal
 */
export function signalProcess(identity, signal) {
  if (isAlive(identity)) sendQuietly(identity.pid, signal);
}

/**
 * Waits until the process is gone; false when it is still there after `milliseconds`.
 *
 * @param {ProcessIdentity} identity
 * @param {number} milliseconds
 * @returns {Promise<boolean>}
 */
export async function waitUntilGone(identity, milliseconds) {
  const until = performance.now() + milliseconds;
  while (isAlive(identity)) {
    if (performance.now() > until) return false;
    await sleep(10);
  }
  return true;
}

/**
 * Ends a process: each signal in turn, with time to act on it. False when it outlives even the last
 * one.
 *
 * @param {ProcessIdentity} identity
 * @param {readonly (readonly [NodeJS.Signals, number])[]} steps signals, each with milliseconds to
 * wait
 * @returns {Promise<boolean>}
 */
export async function endProcess(identity, steps) {
  for (const [signal, milliseconds] of steps) {
    signalProcess(identity, signal);
    if (await waitUntilGone(identity, milliseconds)) return true;
  }
  return false;
}

/**
 * The live processes of the session that `leader` opened, itself left out. Linux gives no new
 * process an id that still names a session, so where another process has the leader's id by now,
 * none of the session is left.
 *
 * @param {ProcessIdentity} leader
 * @returns {ProcessIdentity[]}
 */
export function restOfSession(leader) {
  const now = identify(leader.pid);
  if (leader.boot !== bootId() || (now !== undefined && now.startTime !== leader.startTime))
    return [];
  const members = [];
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name) || Number(name) === leader.pid) continue;
    const stat = readStat(Number(name));
    if (stat?.session !== leader.pid || stat.startTime < leader.startTime) continue;
    const member = identify(Number(name));
    if (member !== undefined) members.push(member);
  }
  return members;
}

/**
 * A process's working directory, or nothing when it can't be told.
 *
 * @param {number} pid
 * @returns {string | undefined}
 */
export function workingDirectory(pid) {
  try {
    return readlinkSync(`/proc/${pid}/cwd`);
  } catch {
    return undefined;
  }
}

/**
 * The CPU time that a process has used, with all that it has started and waited for, in seconds; 0
 * when there is none of that id.
 *
 * @param {number} pid
 */
export function cpuSeconds(pid) {
  return (readStat(pid)?.ticks ?? 0) / TICKS_PER_SECOND;
}

/** @param {number} pid */
function readStat(pid) {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The name, in parentheses, may itself hold spaces and parentheses; fields are counted from
    // behind it (proc(5)).
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    // utime, stime, cutime, cstime
    const ticks = fields.slice(11, 15).reduce((sum, field) => sum + Number(field), 0);
    return { state: fields[0], session: Number(fields[3]), startTime: Number(fields[19]), ticks };
  } catch {
    return undefined;
  }
}

let knownBoot = '';

function bootId() {
  if (knownBoot === '') {
    try {
      knownBoot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
    } catch {
      knownBoot = 'unknown';
    }
  }
  return knownBoot;
}

/**
 * @param {number} pid
 * @param {NodeJS.Signals} signal
 */
function sendQuietly(pid, signal) {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if (/** @type {NodeJS.ErrnoException} */ (error).code !== 'ESRCH') throw error;
  }
}
