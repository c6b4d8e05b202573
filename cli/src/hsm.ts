/**
 * Adds `keyward hsm …`: root keys and the seal key, which never leave the HSM.
 *
 * - A rotation is reported even if watching its job fails afterwards.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Command } from 'commander';
import type { KeywardClient, TokenKey } from 'keyward-client';
import { WATCH_RETRIES, watchRotation, watchTimeout } from './jobs.ts';
import { SHARED, tenantName, tokenKeyName } from './names.ts';
import { type ChangeOptions, changeOf, limitOption, withRequestId } from './options.ts';
import { TOKEN_KEY } from './output/resources.ts';
import { withClient } from './session.ts';

/**
 * After how long a key that isn't current yet is looked at again, which counts what is under it.
 */
const LOOK_AGAIN_MS = 1000;

/** Adds `hsm`. */
export function addHsm(program: Command): void {
  const hsm = program
    .command('hsm')
    .description(
      'the keys that live in the HSM: root keys, which wrap key versions, and the seal key',
    );
  withWatch(hsm.command('rotate-root [tenant]'))
    .description(
      'replace the root key that tenants share, or the one of a tenant with its own, and ' +
        're-wrap key versions under it',
    )
    .action((tenant: string | undefined, _options, command: Command) =>
      rotate(command, (keyward, change) =>
        keyward.rotateRootKey({ parent: ownerName(tenant), ...change }),
      ),
    );
  withWatch(hsm.command('rotate-seal'))
    .description("replace the seal key, and seal every tenant's key versions again under it")
    .action((_options, command: Command) =>
      rotate(command, (keyward, change) => keyward.rotateSealKey(change)),
    );
  hsm
    .command('keys [tenant]')
    .addOption(limitOption())
    .description(
      "list the root and seal keys that tenants share, or a tenant's own root keys, newest first",
    )
    .action((tenant: string | undefined, _options, command: Command) =>
      withClient(command, async (keyward, { output }) => {
        const { tokenKeys } = await keyward.listTokenKeys({ parent: ownerName(tenant) });
        await output.all(TOKEN_KEY, tokenKeys, 'token keys');
      }),
    );
  hsm
    .command('key <key>')
    .description('show one root or seal key: tenants/acme/tokenKeys/…, or its UID')
    .addHelpText('after', '\nA UID without --tenant is of a key that tenants share.')
    .action((key: string, _options, command: Command) =>
      withClient(command, async (keyward, { output, tenant }) => {
        await output.one(TOKEN_KEY, await keyward.getTokenKey({ name: tokenKeyName(key, tenant) }));
      }),
    );
}

function ownerName(tenant: string | undefined): string {
  return tenant === undefined ? SHARED : tenantName(tenant);
}

interface RotateOptions extends ChangeOptions {
  readonly watch?: boolean;
}

function withWatch(command: Command): Command {
  return withRequestId(command)
    .option('--watch', 'follow the job that re-wraps the key versions to its end, and print it')
    .addHelpText(
      'after',
      '\nThe replaced key stays in the HSM until an operator destroys it. While the new ' +
        'one is not CURRENT yet, the service' +
        '\ncontinues automatically: see "keyward hsm keys". Its job is in --output json.' +
        '\nWith --watch, the exit code is 1 if the job ends PARTIAL or CANCELLED; see ' +
        '"keyward jobs watch --help".',
    );
}

function rotate(
  command: Command,
  make: (keyward: KeywardClient, change: { readonly requestId?: string }) => Promise<TokenKey>,
): Promise<void> {
  const { watch } = command.opts<RotateOptions>();
  return withClient<RotateOptions>(
    command,
    async (keyward, { output, ...options }) => {
      const made = await make(keyward, changeOf(options));
      if (!watch) return output.one(TOKEN_KEY, made);
      await watchRotation(keyward, command, {
        rotated: `rotating to ${made.name}`,
        findJob: () => jobOf(keyward, made, watchTimeout(command)),
      });
    },
    watch ? { retries: WATCH_RETRIES } : {},
  );
}

/** The job that a key starts when it becomes current, which this waits for. */
async function jobOf(
  keyward: KeywardClient,
  made: TokenKey,
  timeoutMs = Infinity,
): Promise<string> {
  const until = Date.now() + timeoutMs;
  let key = made;
  while (key.state === 'CREATING' || key.state === 'CREATED') {
    if (Date.now() >= until) throw new Error(`${key.name} is still ${key.state}`);
    await sleep(LOOK_AGAIN_MS);
    key = await keyward.getTokenKey({ name: key.name });
  }
  if (key.rewrapJob === '') throw new Error(`${key.name} has started no job and is ${key.state}`);
  return key.rewrapJob;
}
