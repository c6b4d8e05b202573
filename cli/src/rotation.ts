/**
 * Adds the commands of `keyward keys …` that rotate: `rotate`, `schedule`, `pause`, `resume`,
 * `history`.
 *
 * - A rotation is reported even if watching its job fails afterwards.
 */
import type { Command } from 'commander';
import type { KeywardClient } from 'keyward-client';
import { addChange } from './changes.ts';
import { UsageError } from './failures.ts';
import { WATCH_RETRIES, watchRotation } from './jobs.ts';
import { keyName, lastPart } from './names.ts';
import {
  ahead,
  type ChangeOptions,
  changeOf,
  count,
  duration,
  given,
  limitOption,
  withEtag,
} from './options.ts';
import { KEY, ROTATION, SCHEDULE } from './output/resources.ts';
import { withClient } from './session.ts';

/** Adds them to `keys`. */
export function addRotation(keys: Command): void {
  addRotate(keys);
  addSchedule(keys);
  addChange(keys.command('pause <key>'), {
    description: 'stop automatic work on a key: rotation, re-wrapping and destruction',
    columns: SCHEDULE,
    nameOf: keyName,
    change: (keyward, request) => pause(keyward, request, true),
  });
  addChange(keys.command('resume <key>'), {
    description: 'undo pause',
    columns: SCHEDULE,
    nameOf: keyName,
    change: (keyward, request) => pause(keyward, request, false),
  });
  keys
    .command('history <key>')
    .addOption(limitOption())
    .description("list all of a key's rotations, newest first, and what their jobs have done")
    .action((key: string, _options, command: Command) =>
      withClient(command, (keyward, { output, tenant }) =>
        output.all(ROTATION, keyward.rotations(keyName(key, tenant)), 'rotations'),
      ),
    );
}

function pause(
  keyward: KeywardClient,
  { name, etag = '', ...change }: { readonly name: string } & ChangeOptions,
  maintenancePaused: boolean,
) {
  return keyward.updateKey({ key: { name, etag, maintenancePaused }, ...change });
}

interface RotateOptions extends ChangeOptions {
  readonly watch?: boolean;
}

function addRotate(keys: Command): void {
  withEtag(keys.command('rotate <key>'))
    .description('create a new primary version; older ones can still decrypt')
    .option('--watch', 'follow the job that re-wraps the stored data keys to its end, and print it')
    .addHelpText(
      'after',
      '\nWith --watch, the exit code is 1 if the job ends PARTIAL or CANCELLED; see ' +
        '"keyward jobs watch --help".',
    )
    .action((key: string, { watch }: RotateOptions, command: Command) =>
      withClient<RotateOptions>(
        command,
        async (keyward, { output, tenant, ...options }) => {
          const name = keyName(key, tenant);
          const rotated = await keyward.rotateKey({ name, ...changeOf(options) });
          if (!watch) return output.one(KEY, rotated);
          const version = rotated.primary.name;
          await watchRotation(keyward, command, {
            rotated: `rotated to version ${lastPart(version)}`,
            findJob: () => jobOf(keyward, version),
          });
        },
        watch ? { retries: WATCH_RETRIES } : {},
      ),
    );
}

/** The job of the rotation to this version. */
async function jobOf(keyward: KeywardClient, version: string): Promise<string> {
  const [key] = version.split('/versions/');
  // Newest first: nearly always the first of them.
  for await (const { toVersion, rewrapJob } of keyward.rotations(key ?? '', { pageSize: 10 })) {
    if (toVersion === version) return rewrapJob;
  }
  throw new Error(`cannot watch the job: the service has no rotation to ${version}`);
}

interface ScheduleOptions extends ChangeOptions {
  /** False for `--no-period`. */
  readonly period?: number | false;
  readonly next?: Date;
  readonly usageLimit?: number;
}

function addSchedule(keys: Command): void {
  withEtag(keys.command('schedule <key>'))
    .description('change when a key is rotated automatically')
    .option('--period <duration>', 'rotate it after each such period: 90d, 12h', duration)
    .option('--no-period', 'do not rotate it by time')
    .option(
      '--next <when>',
      'the next rotation, in RFC 3339 or from now (default with a new period: one period from now)',
      ahead,
    )
    .option(
      '--usage-limit <count>',
      'rotate it after this many encryptions and data keys; 0 for no limit',
      count,
    )
    .addHelpText('after', '\nOther settings stay unchanged.')
    .action((key: string, _options, command: Command) =>
      withClient<ScheduleOptions>(command, async (keyward, { output, tenant, ...options }) => {
        const { period, next, usageLimit } = options;
        const schedule = given({
          rotationPeriodSeconds: period === false ? null : period,
          nextRotationTime: next,
          rotationUsageLimit: usageLimit,
        });
        if (Object.keys(schedule).length === 0) {
          throw new UsageError(
            'cannot change the schedule: no change is named; give --period, --no-period, ' +
              '--next or --usage-limit',
          );
        }
        const { etag = '', ...change } = changeOf(options);
        const name = keyName(key, tenant);
        const updated = await keyward.updateKey({ key: { name, etag, ...schedule }, ...change });
        await output.one(SCHEDULE, updated);
      }),
    );
}
