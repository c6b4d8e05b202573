/**
 * Adds `keyward audit state`: who could do what, and what there was, after an entry of an export.
 *
 * - It calls no service, and shows nothing of an export that does not verify.
 */
import type { Command } from 'commander';
import { type AuditState, type AuditStateItem, auditStateAt } from 'keyward-client';
import { UsageError } from './failures.ts';
import { readGiven } from './files.ts';
import { type GlobalOptions, optionsOf } from './globals.ts';
import { count, given, wordsOption } from './options.ts';
import type { Columns, Output } from './output/output.ts';
import { countOn } from './progress.ts';

interface StateOptions extends GlobalOptions {
  readonly at?: number;
  readonly publicKey: readonly string[];
}

/** A row of the table. */
interface Row {
  readonly kind: string;
  readonly item: AuditStateItem;
  readonly state: string;
  readonly what: string;
}

const STATE: Columns<Row> = {
  KIND: ({ kind }) => kind,
  NAME: ({ item }) => item.name,
  STATE: ({ state }) => state,
  WHAT: ({ what }) => what,
  ENTRY: ({ item }) => String(item.leafIndex),
};

/** Adds `state`. */
export function addState(audit: Command): void {
  audit
    .command('state <folder>')
    .description(
      'show tenants, role bindings, roles, keys and maintenance after an entry of an export, ' +
        'which is verified first',
    )
    .option(
      '--at <entry>',
      'right after this entry, by its number in the log (default: the last)',
      count,
    )
    .addOption(
      wordsOption(
        '--public-key <file>',
        "the log's public key, PEM; repeatable, for replaced ones",
      ),
    )
    .addHelpText(
      'after',
      '\nENTRY is that of the last change. What entries cannot tell is listed below the table.' +
        '\n\n  keyward audit state export --at 70655 --public-key log.pem',
    )
    .action(async (folder: string, _options, command: Command) => {
      const { output, at, publicKey } = optionsOf<StateOptions>(command);
      if (publicKey.length === 0)
        throw new UsageError(
          "cannot verify the export: no key is given; give --public-key, the log's key " +
            'from another source',
        );
      const progress = countOn(process.stderr);
      const state = await auditStateAt(folder, {
        ...given({ at }),
        publicKeys: publicKey.map((file) => readGiven(file).toString()),
        onProgress: progress.show,
      })
        .catch((error: unknown) => {
          if (error instanceof RangeError || error instanceof TypeError)
            throw new UsageError(error.message, { cause: error });
          throw error;
        })
        .finally(progress.end);
      if (output.isData) await output.data(state);
      else await printState(output, state);
    });
}

async function printState(output: Output, state: AuditState): Promise<void> {
  await output.table(STATE, rowsOf(state), `After entry ${state.at}, of ${state.time}:\n\n`);
  if (state.unknown.length === 0) return;
  await output.table({ 'NOT KNOWN': (what: string) => what }, state.unknown, '\n');
}

function rowsOf(state: AuditState): Row[] {
  const rows = (
    kind: string,
    items: readonly AuditStateItem[],
    whatOf: (item: AuditStateItem) => string,
  ) =>
    items.map((item) => {
      const { state: own } = item.content;
      return { kind, item, state: typeof own === 'string' ? own : '', what: whatOf(item) };
    });
  const { tenants, roleBindings, roles, keys, tokenKeys, maintenance } = state;
  return [
    ...rows('tenant', tenants, ({ content }) =>
      content['dedicatedRootKey'] === true ? 'a root key of its own' : '',
    ),
    ...rows('role binding', roleBindings, bindingText(state.time)),
    ...rows('role', roles, ({ content }) => listOf(content['permissions'])),
    ...rows('key', keys, keyText(state)),
    ...rows('token key', tokenKeys, ({ content }) => String(content['role'] ?? '')),
    ...rows('maintenance', maintenance ? [maintenance] : [], ({ content }) =>
      content['paused'] === true ? 'paused' : 'running',
    ),
  ];
}

function bindingText(time: string) {
  return ({ content }: AuditStateItem): string => {
    const { member, role, keyPattern, allTenants, conditions, expireTime } = content;
    const { kind, name } = (member ?? {}) as { kind?: string; name?: string };
    const isOver = typeof expireTime === 'string' && expireTime <= time;
    return [
      `${kind === 'group' ? 'group ' : ''}${name}: ${role}`,
      keyPattern ? `keys ${keyPattern}` : '',
      allTenants === true ? 'in ALL tenants' : '',
      Array.isArray(conditions) && conditions.length > 0 ? `if ${JSON.stringify(conditions)}` : '',
      typeof expireTime === 'string' ? `${isOver ? 'EXPIRED' : 'expires'} ${expireTime}` : '',
      content['overridesSeparation'] === true ? 'DUTIES NOT SEPARATED' : '',
    ]
      .filter(Boolean)
      .join(', ');
  };
}

function keyText({ keys }: AuditState) {
  const versionsOf = new Map(keys.map(({ name, versions }) => [name, versions]));
  return ({ name, content }: AuditStateItem): string => {
    const versions = versionsOf.get(name) ?? [];
    const states = versions.map((each) => `${each.version} ${each['state']}`);
    return `primary ${content['primaryVersion']}; versions ${states.join(', ')}`;
  };
}

function listOf(value: unknown): string {
  return Array.isArray(value) ? value.join(', ') : JSON.stringify(value ?? '');
}
