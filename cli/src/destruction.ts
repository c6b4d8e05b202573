/**
 * `destroy` and `restore`, of a key and of a version.
 *
 * Owns how a destruction is asked for: once to see what would be lost, and once more with the etag that was answered. Its
 * invariant: without that etag nothing is scheduled.
 */
import type { Command } from 'commander';
import type { DestructionImpact, KeyVersionUsage, KeywardClient } from 'keyward-client';
import { addChange, type Change } from './changes.ts';
import { printable } from './failures.ts';
import { writeStandardOutput } from './files.ts';
import { changeOf, days, given, type TenantOptions, withRequestId, withTenant } from './options.ts';
import { printJson, printOne } from './print.ts';
import { withClient } from './session.ts';

interface DestroyRequest {
  readonly name: string;
  readonly etag?: string;
  readonly windowDays?: number;
  readonly validateOnly?: boolean;
  readonly requestId?: string;
}

/** What can be destroyed, and how. */
interface Destruction<Item> extends Pick<Change<Item>, 'columns' | 'nameOf'> {
  readonly what: string;
  /** The thing as it is now, and the whole answer. */
  readonly destroy: (
    keyward: KeywardClient,
    request: DestroyRequest,
  ) => Promise<{ readonly item: Item; readonly answer: { readonly impact: DestructionImpact } }>;
  readonly restore: Change<Item>['change'];
}

interface DestroyOptions extends TenantOptions {
  readonly window?: number;
  readonly confirm?: string;
  readonly requestId?: string;
}

/** Gives both commands their words, and what they do. */
export function addDestruction<Item>(
  destroyCommand: Command,
  restoreCommand: Command,
  { what, columns, nameOf, destroy, restore }: Destruction<Item>,
): void {
  withRequestId(withTenant(destroyCommand))
    .description(`schedule ${what} for destruction; without --confirm, only show what would be lost`)
    .option('--window <days>', 'after how long: 7d to 120d, 30d unless given', days)
    .option('--confirm <etag>', 'do it: with the etag that the command without it has shown')
    .addHelpText(
      'after',
      '\nFrom the moment that it is scheduled it can not be used. "restore" undoes it in time.',
    )
    .action((name: string, _options, command: Command) =>
      withClient<DestroyOptions>(command, async (keyward, { output, tenant, window, confirm, requestId }) => {
        const request = { name: nameOf(name, tenant), ...given({ windowDays: window }) };
        const { item, answer } = await (confirm === undefined
          ? destroy(keyward, { ...request, validateOnly: true })
          : destroy(keyward, { ...request, etag: confirm, ...changeOf(given({ requestId })) }));
        if (output === 'json') await printJson(answer);
        else if (confirm !== undefined) await printOne(output, columns, item);
        else await writeStandardOutput(preview(request.name, answer.impact, process.argv.slice(2)));
      }),
    );
  addChange(withTenant(restoreCommand), {
    description: 'undo destroy before its time has come; it is then disabled',
    columns,
    nameOf,
    change: restore,
  });
}

/** What would be lost, in words, and the command that does it: this one, with the etag. */
function preview(name: string, impact: DestructionImpact, args: readonly string[]): string {
  const { usage } = impact;
  const command = ['keyward', ...args, '--confirm', impact.etag].map(quoted).join(' ');
  return `${[
    `Nothing is changed yet. ${printable(name)} would be destroyed at ${impact.destroyTime.toISOString()}:`,
    '',
    `  key versions      ${impact.keyVersions}`,
    `  stored data keys  ${impact.storedDataKeys}`,
    `  encryptions       ${used(usage.encryptOperations, usage.lastEncryptTime)}`,
    `  decryptions       ${used(usage.decryptOperations, usage.lastDecryptTime)}`,
    ...counted(usage),
    '',
    printable(impact.notice),
    '',
    'To schedule it:',
    '',
    `  ${printable(command)}`,
  ].join('\n')}\n`;
}

function used(operations: number, last: Date | undefined): string {
  return last === undefined ? String(operations) : `${operations}, the last at ${last.toISOString()}`;
}

function counted({ completeTime }: KeyVersionUsage): string[] {
  return completeTime === undefined ? [] : [`  counted up to     ${completeTime.toISOString()}`];
}

/** A word as a shell reads it back. */
function quoted(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
