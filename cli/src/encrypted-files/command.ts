/**
 * Adds `keyward encrypt-file` and `decrypt-file`.
 *
 * - No existing file is replaced by default.
 * - A run that is ended by a signal leaves no unfinished file, and can be resumed.
 * - Progress and remarks go to standard error; standard output has content, or a tally in JSON.
 */
import { statSync } from 'node:fs';
import type { Command } from 'commander';
import type { Envelope } from 'keyward-client';
import { UsageError } from '../failures.ts';
import type { GlobalOptions } from '../globals.ts';
import { WATCH_RETRIES } from '../jobs.ts';
import { keyName } from '../names.ts';
import { contextOption, type Pairs, withForce } from '../options.ts';
import type { Output } from '../output/output.ts';
import { countOn, writeBytes } from '../progress.ts';
import { withClient } from '../session.ts';
import type { Asking } from './made.ts';
import { makeFiles, type Plan, type Tally } from './run.ts';
import { pass } from './standard.ts';
import { type Direction, SUFFIX } from './walk.ts';

interface FileOptions {
  readonly key: string;
  readonly context: Pairs;
  readonly out?: string;
  readonly recursive?: boolean;
  readonly resume?: boolean;
  readonly force?: boolean;
}

const TEXTS: Readonly<
  Record<Direction, { readonly key: string; readonly about: string; readonly after: string }>
> = {
  encrypt: {
    key: 'the key that is to wrap the data keys',
    about: 'encrypt files of any size here, each under a data key of its own',
    after:
      `\nA file report.pdf becomes report.pdf${SUFFIX} beside it, and stays. With --out, ` +
      'one path becomes that\nfile or folder, and several go into that folder.' +
      '\n\n  keyward encrypt-file report.pdf --key tenants/acme/keys/files' +
      '\n  keyward encrypt-file --recursive photos --out /backup/photos --key files --tenant acme' +
      '\n  tar -c photos | keyward encrypt-file - --key files --tenant acme > photos.tar.kwe',
  },
  decrypt: {
    key: 'the key that must have wrapped their data keys',
    about: 'decrypt what encrypt-file has made',
    after:
      `\nA file report.pdf${SUFFIX} becomes report.pdf beside it, readable only by you, once all ` +
      'of it was verified.\nStandard output gets each part once that was verified: if the exit ' +
      'code is not 0, do not use it.' +
      `\n\n  keyward decrypt-file report.pdf${SUFFIX} --key tenants/acme/keys/files` +
      `\n  keyward decrypt-file - --key files --tenant acme < photos.tar${SUFFIX} | tar -x`,
  },
};

/** Adds `encrypt-file` and `decrypt-file`. */
export function addEncryptedFiles(program: Command): void {
  add(program, 'encrypt');
  add(program, 'decrypt');
}

function add(program: Command, direction: Direction): void {
  const { key, about, after } = TEXTS[direction];
  withForce(program.command(`${direction}-file <paths...>`))
    .description(about)
    .requiredOption('--key <key>', key)
    .addOption(contextOption())
    .option('--out <path>', 'the output, or the folder for several; - is standard output')
    .option('-r, --recursive', 'all files in folders, and in those that are in them')
    .option('--resume', 'go on where a run was ended: leave what it has made')
    .addHelpText('after', after)
    .action((paths: string[], _options, command: Command) =>
      withClient<FileOptions>(
        command,
        async (keyward, options) => {
          const box = keyward.envelope({ key: keyName(options.key, options.tenant) });
          await work(box, direction, paths, options);
        },
        { retries: WATCH_RETRIES },
      ),
    );
}

async function work(
  box: Envelope,
  direction: Direction,
  paths: readonly string[],
  options: GlobalOptions & FileOptions,
): Promise<void> {
  const { out, context, recursive = false, force = false, resume = false } = options;
  const through = () =>
    direction === 'encrypt' ? box.encryptStream({ context }) : box.decryptStream({ context });
  using ending = endingBySignals(options.output);
  const { signal } = ending;
  const [path = '-'] = paths;
  if (paths.length > 1 && [...paths, out].includes('-'))
    throw new UsageError('cannot take several paths with -: standard input or output is one');
  if (path === '-' || isPassage(out))
    return await pass({ path, out, direction, force, through, signal });
  const shown = countOn(process.stderr, 'bytes');
  const progress = (done: number, total: number) => shown.show(done, total);
  const asking: Asking = (beginnings) => box.opening(beginnings, { context, signal });
  const plan: Plan = {
    ...{ direction, through, force, resume, progress, signal, output: options.output },
    // What was decrypted was verified under whatever key it was.
    ...(direction === 'encrypt' && { asking }),
  };
  const tally = await makeFiles({ paths, out, recursive }, plan).finally(() => shown.end());
  await report(tally, plan, options.output);
}

/** Returns whether bytes only pass through it: standard output, a device, a pipe. */
function isPassage(out: string | undefined): boolean {
  if (out === undefined || out === '-') return out === '-';
  const status = statSync(out, { throwIfNoEntry: false });
  return status !== undefined && !status.isFile() && !status.isDirectory();
}

async function report(tally: Tally, { direction }: Plan, output: Output): Promise<void> {
  const { files, bytes, made, left, skipped, failed } = tally;
  if (output.isData) await output.data(tally);
  else if (files + made + left + skipped + failed !== 1) {
    const facts = [
      `${direction}ed ${filesOf(files)}, ${writeBytes(bytes)}`,
      ...(made > 0 ? [`${made} made by an earlier run`] : []),
      ...(left > 0 ? [`left ${left} that ${leftBecause(direction)}`] : []),
      ...(skipped > 0 ? [`left out ${skipped}`] : []),
    ];
    process.stderr.write(`keyward: ${facts.join('; ')}\n`);
  }
  if (failed > 0) throw new Error(`cannot ${direction} ${filesOf(failed)}, named above`);
}

function filesOf(count: number): string {
  return count === 1 ? '1 file' : `${count} files`;
}

function leftBecause(direction: Direction): string {
  return direction === 'encrypt' ? 'are encrypted already' : `do not end in ${SUFFIX}`;
}

/** Returns a signal that is aborted by Ctrl-C and its like, by which the process then ends. */
function endingBySignals(output: Output): Disposable & { readonly signal: AbortSignal } {
  const controller = new AbortController();
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  const stop = (signal: NodeJS.Signals) => controller.abort(new Stopped(signal));
  for (const signal of signals) process.once(signal, stop);
  return {
    signal: controller.signal,
    [Symbol.dispose]: () => {
      for (const signal of signals) process.off(signal, stop);
      const { reason } = controller.signal;
      if (reason instanceof Stopped) reason.endProcess(output);
    },
  };
}

class Stopped extends Error {
  readonly #signal: NodeJS.Signals;

  constructor(signal: NodeJS.Signals) {
    super(`ended by ${signal}`);
    this.#signal = signal;
  }

  /** As a process ends that does not listen for the signal. */
  endProcess(output: Output): void {
    output.remark(`${this.message}; give --resume to go on`);
    process.kill(process.pid, this.#signal);
  }
}
