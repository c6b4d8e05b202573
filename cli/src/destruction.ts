/**
 * Adds `destroy` and `restore` for keys and versions, and `shred` and `restore` for tenants.
 *
 * - A destruction takes two commands: one shows what would be lost, and one confirms its etag.
 * - Without that etag nothing is scheduled.
 */
import type { Command } from 'commander';
import type {
  DestructionImpact,
  KeyVersionUsage,
  KeywardClient,
  ShredImpact,
} from 'keyward-client';
import { addChange, type Change } from './changes.ts';
import { quoted } from './failures.ts';
import { printText } from './files.ts';
import { changeOf, days, given, withRequestId } from './options.ts';
import { printable } from './output/printable.ts';
import { whenOf } from './output/resources.ts';
import { withClient } from './session.ts';

interface DestroyRequest {
  readonly name: string;
  readonly etag?: string;
  readonly windowDays?: number;
  readonly validateOnly?: boolean;
  readonly requestId?: string;
}

/** Describes for people what would be lost. */
export interface Loss {
  /** What becomes of the thing, and when. */
  readonly fate: string;
  readonly facts: readonly (readonly [what: string, howMuch: string])[];
  /** Paragraphs, line by line. */
  readonly notices: readonly (readonly string[])[];
}

/** What can be destroyed, and how. */
interface Destruction<Item, Impact> extends Pick<Change<Item>, 'columns' | 'nameOf'> {
  /** What is done by the command, as in `schedule one version for destruction`. */
  readonly does: string;
  /** The thing as it is now, and the whole answer. */
  readonly destroy: (
    keyward: KeywardClient,
    request: DestroyRequest,
  ) => Promise<{ readonly item: Item; readonly answer: { readonly impact: Impact } }>;
  readonly lossOf: (impact: Impact) => Loss;
  readonly restore: Change<Item>['change'];
}

interface DestroyOptions {
  readonly window?: number;
  readonly confirm?: string;
  readonly requestId?: string;
}

/** Adds descriptions, options and actions to both commands. */
export function addDestruction<Item, Impact extends { readonly etag: string }>(
  destroyCommand: Command,
  restoreCommand: Command,
  { does, columns, nameOf, destroy, lossOf, restore }: Destruction<Item, Impact>,
): void {
  withRequestId(destroyCommand)
    .description(`${does}; without --confirm, only show what would be lost`)
    .option('--window <days>', 'the time until destruction, 7d to 120d (default: 30d)', days)
    .option(
      '--confirm <etag>',
      'schedule it, with the etag that the command without --confirm shows',
    )
    .addHelpText(
      'after',
      '\nIt cannot be used from the moment it is scheduled. "restore" undoes that before its time.',
    )
    .action((name: string, _options, command: Command) =>
      withClient<DestroyOptions>(
        command,
        async (keyward, { output, tenant, window, confirm, requestId }) => {
          const request = { name: nameOf(name, tenant), ...given({ windowDays: window }) };
          const { item, answer } = await (confirm === undefined
            ? destroy(keyward, { ...request, validateOnly: true })
            : destroy(keyward, { ...request, etag: confirm, ...changeOf(given({ requestId })) }));
          if (output.isData) await output.data(answer);
          else if (confirm !== undefined) await output.one(columns, item);
          else
            await printText(
              preview(request.name, lossOf(answer.impact), {
                etag: answer.impact.etag,
                to: 'schedule it',
              }),
            );
        },
      ),
    );
  addChange(restoreCommand, {
    description: `undo ${destroyCommand.name()} before its time; afterwards it is disabled`,
    columns,
    nameOf,
    change: restore,
  });
}

/** Returns the text about what would be lost, and the command that confirms it. */
export function preview(
  name: string,
  { fate, facts, notices }: Loss,
  { etag, to }: { readonly etag: string; readonly to: string },
): string {
  const command = ['keyward', ...process.argv.slice(2), '--confirm', etag].map(quoted).join(' ');
  const width = Math.max(...facts.map(([what]) => what.length));
  return `${[
    `Nothing has changed yet. ${printable(name)} would be ${fate}:`,
    '',
    ...facts.map(([what, howMuch]) => `  ${what.padEnd(width)}  ${printable(howMuch)}`),
    '',
    ...notices.flatMap((lines) => [...lines.map(printable), '']),
    `To ${to}:`,
    '',
    `  ${printable(command)}`,
  ].join('\n')}\n`;
}

/** Returns what is lost with a key or a version. */
export function destructionLoss({ usage, ...impact }: DestructionImpact): Loss {
  return {
    fate: `destroyed at ${impact.destroyTime.toISOString()}`,
    facts: [
      ['key versions', String(impact.keyVersions)],
      ['stored data keys', String(impact.storedDataKeys)],
      ['encryptions', used(usage.encryptOperations, usage.lastEncryptTime)],
      ['decryptions', used(usage.decryptOperations, usage.lastDecryptTime)],
      ...counted(usage),
    ],
    notices: [[impact.notice]],
  };
}

/** Returns what is lost with a tenant, and what an operator must do. */
export function shredLoss({ rootKeys, checklist, ...impact }: ShredImpact): Loss {
  const copies = [
    'Its root keys must also be destroyed in each of these copies:',
    ...checklist.map((place) => `- ${place}`),
  ];
  return {
    fate: `shredded at ${impact.shredTime.toISOString()}`,
    facts: [
      ['keys', String(impact.keys)],
      ['key versions', String(impact.keyVersions)],
      ['stored data keys', String(impact.storedDataKeys)],
      ['last use', whenOf(impact.lastUseTime)],
      ...rootKeys.map((name) => ['root key', name] as const),
    ],
    notices: checklist.length === 0 ? [[impact.notice]] : [[impact.notice], copies],
  };
}

function used(operations: number, last: Date | undefined): string {
  return last === undefined
    ? String(operations)
    : `${operations}, the last at ${last.toISOString()}`;
}

function counted({ completeTime }: KeyVersionUsage): [string, string][] {
  return completeTime === undefined ? [] : [['counted up to', completeTime.toISOString()]];
}
