/**
 * Adds `keyward jobs …`: re-wrap jobs, and watching one.
 *
 * - Standard output has the job as it ended and nothing else; progress goes to standard error.
 */
import type { Command } from 'commander';
import { type CallOptions, type KeywardClient, KeywardError, type RewrapJob } from 'keyward-client';
import { optionsOf } from './globals.ts';
import { jobName, oneTenant, scopeName } from './names.ts';
import {
  type ChangeOptions,
  changeOf,
  given,
  type ListOptions,
  limitOption,
  withFilter,
  withRequestId,
} from './options.ts';
import type { Output } from './output/output.ts';
import { FAILURE, JOB } from './output/resources.ts';
import { progressOn } from './progress.ts';
import { withClient } from './session.ts';

/** How often in a row a broken watch is resumed: for about 15 seconds, while a service restarts. */
export const WATCH_RETRIES = 6;

/** Adds `jobs`. */
export function addJobs(program: Command): void {
  const jobs = program
    .command('jobs')
    .description(
      "manage re-wrap jobs: stored data keys under their keys' primary versions, key " +
        'versions under the root key',
    );
  addCreateJob(jobs);
  addListJobs(jobs);
  jobs
    .command('get <job>')
    .description('show one job, with what it could not open')
    .action((job: string, _options, command: Command) =>
      withClient(command, async (keyward, { output, tenant }) => {
        await printJob(output, await keyward.getRewrapJob({ name: jobName(job, tenant) }));
      }),
    );
  withRequestId(jobs.command('cancel <job>'))
    .description('stop a job; its work so far stays, and any later job does the rest')
    .action((job: string, _options, command: Command) =>
      withClient<ChangeOptions>(command, async (keyward, { output, tenant, ...options }) => {
        const name = jobName(job, tenant);
        await printJob(output, await keyward.cancelRewrapJob({ name, ...changeOf(options) }));
      }),
    );
  addWatchJob(jobs);
}

interface CreateOptions extends ChangeOptions {
  readonly keyVersions?: boolean;
}

function addCreateJob(jobs: Command): void {
  withRequestId(jobs.command('create <scope>'))
    .description('start a job for one key, for a tenant, or for all tenants (-)')
    .option(
      '--key-versions',
      're-wrap key versions under the current root key, not stored data keys; for a ' +
        'tenant, or for all',
    )
    .addHelpText(
      'after',
      '\nIf a job of the same scope and kind is running, shows that one and starts none.' +
        '\n\n  keyward jobs create tenants/acme/keys/orders\n  keyward jobs create acme' +
        '\n  keyward jobs create - --key-versions',
    )
    .action((scope: string, _options, command: Command) =>
      withClient<CreateOptions>(
        command,
        async (keyward, { output, tenant, keyVersions, ...options }) => {
          const kind = keyVersions ? ('KEY_VERSIONS' as const) : undefined;
          const request = {
            scope: scopeName(scope, tenant),
            ...given({ kind }),
            ...changeOf(options),
          };
          await printJob(output, await keyward.createRewrapJob(request));
        },
      ),
    );
}

function addListJobs(jobs: Command): void {
  withFilter(jobs.command('list [tenant]'), 'state', 'state = RUNNING')
    .addOption(limitOption())
    .description(
      'list all of a tenant\'s jobs, newest first; jobs over all tenants are listed in "system"',
    )
    .action((whose: string | undefined, _options, command: Command) =>
      withClient<ListOptions>(command, async (keyward, { output, tenant, filter = '' }) => {
        const parent = oneTenant(
          whose,
          tenant,
          'cannot list jobs: no tenant is named; write keyward jobs list acme',
        );
        await output.all(JOB, keyward.rewrapJobs(parent, { filter }), 'jobs');
      }),
    );
}

function addWatchJob(jobs: Command): void {
  jobs
    .command('watch <job>')
    .description('follow a job to its end, and print it')
    .addHelpText(
      'after',
      '\nA terminal on standard error shows the progress. Without --timeout the command ' +
        'waits as long as it takes.' +
        '\nThe exit code is 1 if the job ends PARTIAL or CANCELLED; SUPERSEDED leaves the ' +
        'rest to a newer job, and is 0.',
    )
    .action((job: string, _options, command: Command) =>
      withClient(
        command,
        async (keyward, { tenant }) => {
          requireWhole(await watchJob(keyward, jobName(job, tenant), command));
        },
        { retries: WATCH_RETRIES },
      ),
    );
}

/**
 * Returns how long to watch, in milliseconds; undefined for no limit, unless the user gives one.
 */
export function watchTimeout(command: Command): number | undefined {
  // The default is meant for calls that answer at once.
  const said = command.getOptionValueSourceWithGlobals('timeout') === 'cli';
  return said ? optionsOf(command).timeout : undefined;
}

/**
 * Follows something until the user interrupts it, or for as long as they gave: that it ends then
 * is no failure, if the service can be reached.
 */
export async function untilTimeout(
  keyward: KeywardClient,
  command: Command,
  follow: (options: CallOptions) => Promise<void>,
): Promise<void> {
  const timeoutMs = watchTimeout(command);
  try {
    await follow(given({ timeoutMs }));
  } catch (error) {
    if (timeoutMs === undefined || !isLate(error)) throw error;
    await keyward.getCaller();
  }
}

/** Whether the time is over that the user gave. */
function isLate(error: unknown): boolean {
  return error instanceof KeywardError && error.code === 'DEADLINE_EXCEEDED';
}

/** Follows a job to its end, prints it, and returns it. */
async function watchJob(
  keyward: KeywardClient,
  name: string,
  command: Command,
): Promise<RewrapJob> {
  const { output } = optionsOf(command);
  const timeoutMs = watchTimeout(command);
  const options: CallOptions = timeoutMs === undefined ? {} : { timeoutMs };
  const progress = progressOn(process.stderr);
  let last: RewrapJob | undefined;
  try {
    for await (const job of keyward.watchRewrapJob({ name }, options)) {
      last = job;
      progress.show(job);
    }
  } catch (error) {
    if (last === undefined || !isLate(error)) throw error;
    throw new Error(`${name} is still ${last.state}`, { cause: error });
  } finally {
    progress.end();
  }
  if (last === undefined)
    throw new Error(`cannot watch ${name}: the service reports nothing about it`);
  await printJob(output, last);
  return last;
}

/**
 * Follows the job that a rotation has started, as {@link watchJob} and {@link requireWhole} do. On
 * failure, reports the rotation first: otherwise it would look as if nothing had been done, and be
 * repeated.
 */
export async function watchRotation(
  keyward: KeywardClient,
  command: Command,
  { rotated, findJob }: { readonly rotated: string; readonly findJob: () => Promise<string> },
): Promise<void> {
  let job: RewrapJob;
  try {
    job = await watchJob(keyward, await findJob(), command);
  } catch (error) {
    optionsOf(command).output.remark(`${rotated}, but cannot watch its job:`);
    throw error;
  }
  requireWhole(job);
}

/** What a job's counts are of. */
const COUNTED = {
  DATA_KEYS: 'stored data keys',
  KEY_VERSIONS: 'key versions',
  UNSPECIFIED: 'of them',
} as const satisfies Record<RewrapJob['kind'], string>;

/** Throws for a job that ended with work left that no other job does. */
function requireWhole({ state, kind, failed }: RewrapJob): void {
  if (state === 'PARTIAL') {
    throw new Error(`the job ended PARTIAL: it could not open ${failed} ${COUNTED[kind]}`);
  }
  if (state === 'CANCELLED') throw new Error('the job was cancelled');
}

/** Prints a job; a table is followed by another of what it could not open. */
async function printJob(output: Output, job: RewrapJob): Promise<void> {
  await output.one(JOB, job);
  if (output.isData || job.failures.length === 0) return;
  await output.table(FAILURE, job.failures, '\n');
}
