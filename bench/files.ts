/**
 * `keyward encrypt-file` and `decrypt-file` beside `openssl enc -aes-256-ctr`, measured: a file of
 * the same bytes, each time by a process of its own, in turn.
 *
 * Invariant: what is measured is the command as it is installed, where the bench is of what is
 * built; its time is that from its start to its end, with its call of the service and with the file
 * on disk. OpenSSL's is without that and, beside it, with a `sync` of the file.
 */
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import type { ClientIdentity } from '../dev/identities.ts';
import { findCommand } from '../scripts/system-packages.js';
import { median, type Spread, spreadOf } from './measure.ts';
import { cpuMicroseconds } from './processes.ts';

/** How much is done. */
export interface FilePlan {
  readonly rounds: number;
  readonly bytes: number;
}

/** Bytes a second, and what the command takes; no rows where there is no OpenSSL. */
export interface FileResults {
  readonly bytes: number;
  readonly rows: readonly FileRow[];
}

export interface FileRow {
  readonly name: string;
  readonly perSecond: number;
  readonly opensslPerSecond: number;
  /** The median, the lowest and the highest of the rounds'. */
  readonly ofOpenssl: Spread;
  readonly ofOpensslAndSync: Spread;
  /** Seconds of CPU time for a gigabyte. */
  readonly cpu: number;
  readonly opensslCpu: number;
  /** The highest, in megabytes. */
  readonly resident: number;
}

/** What a process took. */
interface Took {
  readonly seconds: number;
  readonly cpuSeconds: number;
  readonly megabytes: number;
}

const OPENSSL = ['enc', '-aes-256-ctr', '-K', '0'.repeat(64), '-iv', '0'.repeat(32)];

/** Both directions, in a folder that is made and removed. */
export async function measureFiles(
  client: ClientIdentity,
  key: string,
  { rounds, bytes, folder }: FilePlan & { readonly folder: string },
): Promise<FileResults> {
  if (findCommand('openssl') === undefined) return { bytes, rows: [] };
  mkdirSync(folder, { recursive: true });
  const at = (name: string) => join(folder, name);
  await writeRandom(at('plain'), bytes);
  const program = await programIn(folder);
  const env = {
    PATH: process.env['PATH'],
    KEYWARD_ADDRESS: client.address,
    KEYWARD_CA_FILE: client.caFile,
    KEYWARD_CERT_FILE: client.certFile,
    KEYWARD_KEY_FILE: client.keyFile,
  };
  const keyward = (words: string, to: string) =>
    take(process.execPath, [program, ...words.split(' '), '--key', key, '--out', to], { env });
  const openssl = async (words: readonly string[], from: string, to: string) => {
    const bare = await take('openssl', [...OPENSSL, ...words, '-in', from, '-out', to]);
    const { seconds } = await take('sync', ['-d', to]);
    return { bare, synced: bare.seconds + seconds };
  };
  const kinds = [
    ['encrypt-file', `encrypt-file ${at('plain')}`, [], at('plain'), 'sealed.kwe'],
    ['decrypt-file', `decrypt-file ${at('sealed.kwe')}`, ['-d'], at('openssl'), 'back'],
  ] as const;
  const rows: FileRow[] = [];
  for (const [name, words, flags, from, made] of kinds) {
    const takes: { own: Took; bare: Took; synced: number }[] = [];
    for (let round = 0; round < rounds; round++) {
      const to = at(flags.length === 0 ? 'openssl' : 'openssl-back');
      // Each one's file goes just before its turn: in a virtual machine it costs twice the time to
      // write where no memory was freed lately, since the host has taken it back.
      rmSync(to, { force: true });
      const floor = await openssl(flags, from, to);
      rmSync(at(made), { force: true });
      takes.push({ ...floor, own: await keyward(words, at(made)) });
    }
    for (const done of ['plain', 'openssl-back']) rmSync(at(done), { force: true });
    rows.push(rowOf(name, bytes, takes));
  }
  if (statSync(at('back')).size !== bytes) throw new Error('the file did not come back');
  rmSync(folder, { recursive: true });
  return { bytes, rows };
}

function rowOf(
  name: string,
  bytes: number,
  takes: readonly { own: Took; bare: Took; synced: number }[],
): FileRow {
  const gigabytes = bytes / 1e9;
  return {
    name,
    perSecond: bytes / median(takes.map(({ own }) => own.seconds)),
    opensslPerSecond: bytes / median(takes.map(({ bare }) => bare.seconds)),
    ofOpenssl: spreadOf(takes.map(({ own, bare }) => bare.seconds / own.seconds)),
    ofOpensslAndSync: spreadOf(takes.map(({ own, synced }) => synced / own.seconds)),
    cpu: median(takes.map(({ own }) => own.cpuSeconds)) / gigabytes,
    opensslCpu: median(takes.map(({ bare }) => bare.cpuSeconds)) / gigabytes,
    resident: Math.max(...takes.map(({ own }) => own.megabytes)),
  };
}

/** The command as it is installed, or the sources where nothing was built. */
async function programIn(folder: string): Promise<string> {
  if (!process.argv.includes('--built'))
    return join(import.meta.dirname, '..', 'cli', 'bin', 'keyward.js');
  const { makeClient, makeCommand } = await import('../scripts/packages.js');
  makeClient(join(folder, 'client'));
  await makeCommand(join(folder, 'command'), join(folder, 'client'));
  return join(folder, 'command', 'keyward.cjs');
}

async function writeRandom(file: string, bytes: number): Promise<void> {
  const block = randomBytes(2 ** 20);
  await using handle = await open(file, 'w');
  for (let left = bytes; left > 0; left -= block.length)
    await handle.writeFile(block.subarray(0, left));
  await handle.sync();
}

/** Runs a process, and looks at it until it has ended: both figures only grow. */
async function take(
  program: string,
  args: readonly string[],
  options: { readonly env?: NodeJS.ProcessEnv } = {},
): Promise<Took> {
  const begin = performance.now();
  const child = spawn(program, args, { ...options, stdio: ['ignore', 'ignore', 'pipe'] });
  let errors = '';
  child.stderr.on('data', (chunk: Buffer) => {
    errors += chunk;
  });
  let [megabytes, cpuSeconds] = [0, 0];
  const look = () => {
    const seen = lookAt(child.pid ?? 0);
    megabytes = Math.max(megabytes, seen?.megabytes ?? 0);
    cpuSeconds = Math.max(cpuSeconds, seen?.cpuSeconds ?? 0);
  };
  const looking = setInterval(look, 20);
  try {
    const code = await new Promise<number | null>((resolve, reject) => {
      child.once('error', reject);
      child.once('close', resolve);
    });
    if (code !== 0) throw new Error(`${program} ${args.join(' ')}: exit code ${code}: ${errors}`);
  } finally {
    clearInterval(looking);
  }
  return { seconds: (performance.now() - begin) / 1000, cpuSeconds, megabytes };
}

/** The most that was resident, and CPU time; undefined once the process has ended. */
function lookAt(pid: number): Omit<Took, 'seconds'> | undefined {
  try {
    const peak = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
    if (peak === undefined) return undefined;
    return { megabytes: (Number(peak) * 1024) / 1e6, cpuSeconds: cpuMicroseconds(pid) / 1e6 };
  } catch {
    return undefined;
  }
}
