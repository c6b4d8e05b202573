/**
 * Adds `keyward canaries …` and `keyward suspensions …`: what no caller should ever open, and
 * callers that are refused.
 *
 * - Each command is one call of the client, or a list.
 */
import { type Command, Option } from 'commander';
import {
  type CanaryKind,
  type CreateSuspensionRequest,
  type KeywardClient,
  KeywardError,
  type Suspension,
} from 'keyward-client';
import { impossible } from './bindings.ts';
import { UsageError } from './failures.ts';
import { refuseToOverwrite, writeOutput } from './files.ts';
import { afterTenant, canaryName, keyName, oneTenant, suspensionName } from './names.ts';
import {
  type ChangeOptions,
  changeOf,
  given,
  limitOption,
  wholeNumber,
  withEtag,
  withForce,
  withRequestId,
} from './options.ts';
import type { Output } from './output/output.ts';
import { CANARY, MADE_CANARY, SUSPENSION } from './output/resources.ts';
import { withClient } from './session.ts';

const KINDS = {
  ciphertext: 'CIPHERTEXT',
  'wrapped-data-key': 'WRAPPED_DATA_KEY',
  'stored-data-key': 'STORED_DATA_KEY',
} as const satisfies Readonly<Record<string, CanaryKind>>;

/** Adds `canaries`. */
export function addCanaries(program: Command): void {
  const canaries = program
    .command('canaries')
    .description('lay ciphertexts and data keys that no caller should open, and hear of who does');
  addCreate(canaries);
  canaries
    .command('list [tenant]')
    .addOption(limitOption())
    .description("list a tenant's canaries")
    .action((whose: string | undefined, _options, command: Command) =>
      withClient(command, async (keyward, { output, tenant }) => {
        const question =
          'cannot list canaries: no tenant is named; write keyward canaries list acme';
        const parent = oneTenant(whose, tenant, question);
        await output.all(CANARY, keyward.canaries(parent, { pageSize: 1_000 }), 'canaries');
      }),
    );
  canaries
    .command('get <canary>')
    .description('show a canary, without its ciphertext, which nothing keeps')
    .action((named: string, _options, command: Command) =>
      withClient(command, async (keyward, { output, tenant }) => {
        const found = await keyward.getCanary({ name: canaryName(named, tenant) });
        await output.one(CANARY, found);
      }),
    );
  withEtag(canaries.command('delete <canary>'))
    .description(
      'delete a canary, with the stored data key that was made for it: nothing tells of it then',
    )
    .action((named: string, _options, command: Command) =>
      withClient<ChangeOptions>(command, async (keyward, { output, tenant, ...options }) => {
        const name = canaryName(named, tenant);
        await keyward.deleteCanary({ name, ...changeOf(options) });
        await output.done(`Deleted ${name}.`);
      }),
    );
}

interface CreateOptions {
  readonly kind: keyof typeof KINDS;
  readonly id?: string;
  readonly length?: number;
  readonly dataKeyId?: string;
  readonly suspendCaller?: boolean;
  readonly description?: string;
  readonly out?: string;
  readonly force?: boolean;
}

function addCreate(canaries: Command): void {
  withForce(canaries.command('create <key>'))
    .description('make a canary under a key, and print what is to be laid out')
    .addOption(
      new Option('--kind <kind>', 'what it is to be like')
        .choices(Object.keys(KINDS))
        .default('ciphertext'),
    )
    .option('--id <id>', 'the last part of its name (default: generated)')
    .option(
      '--length <bytes>',
      'of the plaintext that it seems to have, or of the data key (default: 0, or 32)',
      wholeNumber,
    )
    .option('--data-key-id <id>', "the last part of a stored data key's name (default: generated)")
    .option('--suspend-caller', 'suspend the caller that wants it opened, in this tenant')
    .option('--description <text>', 'where it is laid; encrypted in the database')
    .option('--out <file>', 'write its bytes to this file, instead of printing them in base64')
    .addHelpText(
      'after',
      '\nIts bytes are shown this once. Lay them where only real ones are looked for.' +
        '\n\n  keyward canaries create tenants/acme/keys/chat --length 1200 --description ' +
        '"in the transcripts of 2026"',
    )
    .action((key: string, _options, command: Command) =>
      withClient<CreateOptions>(command, async (keyward, { output, tenant, ...options }) => {
        const { kind, id, length, dataKeyId, suspendCaller, description, out, force } = options;
        requireFitting(options);
        refuseToOverwrite([out], given({ force }));
        const { canary: made, ciphertext = Buffer.alloc(0) } = await keyward.createCanary({
          parent: keyName(key, tenant),
          kind: KINDS[kind],
          ...given({ canaryId: id, length, dataKeyId, suspendCaller, description }),
        });
        if (out !== undefined) await writeOutput(out, ciphertext, given({ force }));
        if (out === '-') return;
        const shown = out === undefined ? ciphertext.toString('base64') : '';
        if (output.isData)
          return output.data({ canary: made, ...(shown === '' ? {} : { ciphertext: shown }) });
        await output.one(MADE_CANARY, { ...made, ciphertext: shown });
      }),
    );
}

/** Throws UsageError for an option of another kind of canary. */
function requireFitting({ kind, dataKeyId, out }: CreateOptions): void {
  const isStored = kind === 'stored-data-key';
  if (isStored && out !== undefined)
    throw new UsageError(
      'cannot use --out: a stored data key has no bytes to lay out; callers find it by its name',
    );
  if (!isStored && dataKeyId !== undefined)
    throw new UsageError('cannot use --data-key-id: it is for --kind stored-data-key');
}

/** Adds `suspensions`. */
export function addSuspensions(program: Command): void {
  const suspensions = program
    .command('suspensions')
    .description('callers that are refused in a tenant, whatever role bindings give them');
  suspensions
    .command('list [tenant]')
    .addOption(limitOption())
    .description('list the callers that are suspended in a tenant')
    .action((whose: string | undefined, _options, command: Command) =>
      withClient(command, async (keyward, { output, tenant }) => {
        const question =
          'cannot list suspensions: no tenant is named; write keyward suspensions list acme';
        const parent = oneTenant(whose, tenant, question);
        await output.all(
          SUSPENSION,
          keyward.suspensions(parent, { pageSize: 1_000 }),
          'suspensions',
        );
      }),
    );
  addSuspend(suspensions);
  addLift(suspensions);
}

interface SuspendOptions extends ChangeOptions {
  readonly description?: string;
}

function addSuspend(suspensions: Command): void {
  withRequestId(suspensions.command('add [tenant] [caller]'))
    .description('suspend a caller in a tenant, within 2 s on every replica; in system, everywhere')
    .option('--description <text>', 'why; not secret')
    .addHelpText(
      'after',
      '\n  keyward suspensions add system jwt:corp/assistant' +
        '\n  keyward suspensions add jwt:corp/assistant --tenant acme',
    )
    .action((...[first, second, , command]: [string?, string?, object?, Command?]) =>
      withClient<SuspendOptions>(command as Command, async (keyward, all) => {
        const { output, tenant, description, ...options } = all;
        const [whose, caller] = afterTenant([first, second], tenant);
        if (caller === undefined) throw new UsageError(NO_ONE_NAMED);
        const parent = oneTenant(whose, tenant, NO_ONE_NAMED);
        const why = impossible({ principal: caller });
        if (why !== undefined) output.remark(`warning: ${why}`);
        if (caller === (await keyward.getCaller()).name) throw new UsageError(THAT_IS_YOU);
        const request = { parent, caller, ...given({ description }), ...changeOf(options) };
        await output.one(SUSPENSION, await suspended(keyward, request, output));
      }),
    );
}

const NO_ONE_NAMED =
  'cannot suspend a caller: name a tenant and a caller, as in keyward suspensions add acme ' +
  'jwt:corp/assistant';

const THAT_IS_YOU =
  'cannot suspend a caller: that is you, and you could not lift it; have someone else suspend you';

/** Suspends a caller; returns the suspension that there is already, where the caller may see it. */
async function suspended(
  keyward: KeywardClient,
  request: CreateSuspensionRequest,
  output: Output,
): Promise<Suspension> {
  try {
    return await keyward.createSuspension(request);
  } catch (error) {
    if (!(error instanceof KeywardError) || error.reason !== 'RESOURCE_EXISTS') throw error;
    const { parent, caller } = request;
    const found = await suspensionOf(keyward, parent, caller).catch(() => undefined);
    if (found === undefined)
      throw new Error(`cannot suspend ${caller}: it is suspended in ${parent} already`, {
        cause: error,
      });
    output.remark('nothing to do: this caller is suspended already');
    return found;
  }
}

async function suspensionOf(
  keyward: KeywardClient,
  parent: string,
  caller: string,
): Promise<Suspension | undefined> {
  for await (const each of keyward.suspensions(parent, { pageSize: 1_000 }))
    if (each.caller === caller) return each;
  return undefined;
}

function addLift(suspensions: Command): void {
  withRequestId(suspensions.command('lift <suspension>'))
    .description('lift a suspension: the caller may again do what role bindings give it')
    .addHelpText(
      'after',
      '\nName the suspension, or the caller and the tenant:\n' +
        '\n  keyward suspensions lift tenants/acme/suspensions/…' +
        '\n  keyward suspensions lift jwt:corp/assistant --tenant acme',
    )
    .action((named: string, _options, command: Command) =>
      withClient<ChangeOptions>(command, async (keyward, { output, tenant, ...options }) => {
        const name = isCaller(named)
          ? await nameOfThat(keyward, oneTenant(undefined, tenant, NO_TENANT), named)
          : suspensionName(named, tenant);
        await keyward.deleteSuspension({ name, ...changeOf(options) });
        await output.done(`Lifted ${name}.`);
      }),
    );
}

const NO_TENANT = 'cannot lift the suspension of a caller: no tenant is named; give --tenant';

/** Whether it is a caller's name and no suspension's, which has neither of these. */
function isCaller(named: string): boolean {
  return /[:=]/.test(named);
}

async function nameOfThat(keyward: KeywardClient, parent: string, caller: string): Promise<string> {
  const found = await suspensionOf(keyward, parent, caller);
  if (found !== undefined) return found.name;
  throw new Error(
    `cannot lift the suspension: ${parent} has none of ${caller}; one in system holds in every ` +
      'tenant, and is lifted there',
  );
}
