/**
 * Adds `keyward tenants …` and `keyward maintenance …`.
 *
 * - Each command is one call of the client.
 */
import type { Command } from 'commander';
import type { KeywardClient, Maintenance } from 'keyward-client';
import { addChange } from './changes.ts';
import { addDestruction, shredLoss } from './destruction.ts';
import { UsageError } from './failures.ts';
import { lastPart, tenantName } from './names.ts';
import {
  type ChangeOptions,
  changeOf,
  count,
  given,
  type ListOptions,
  limitOption,
  withEtag,
  withFilter,
  withRequestId,
} from './options.ts';
import { MAINTENANCE, TENANT } from './output/resources.ts';
import { withClient } from './session.ts';

/** Adds `tenants`. */
export function addTenants(program: Command): void {
  const tenants = program.command('tenants').description('manage tenants');
  addCreateTenant(tenants);
  withFilter(tenants.command('list'), 'state')
    .addOption(limitOption())
    .description('list all tenants')
    .action((_options, command: Command) =>
      withClient<ListOptions>(command, (keyward, { output, filter = '' }) =>
        output.all(TENANT, keyward.tenants({ filter }), 'tenants'),
      ),
    );
  tenants
    .command('get <tenant>')
    .description('show one tenant')
    .action((tenant: string, _options, command: Command) =>
      withClient(command, async (keyward, { output }) => {
        await output.one(TENANT, await keyward.getTenant({ name: tenantName(tenant) }));
      }),
    );
  addUpdateTenant(tenants);
  addChange(tenants.command('disable <tenant>'), {
    description: "stop all use of a tenant's keys until it is enabled again",
    columns: TENANT,
    nameOf: tenantName,
    change: (keyward, request) => keyward.disableTenant(request),
  });
  addChange(tenants.command('enable <tenant>'), {
    description: 'undo disable',
    columns: TENANT,
    nameOf: tenantName,
    change: (keyward, request) => keyward.enableTenant(request),
  });
  addShred(tenants);
}

function addShred(tenants: Command): void {
  addDestruction(tenants.command('shred <tenant>'), tenants.command('restore <tenant>'), {
    does: 'schedule a tenant for shredding, with all of its keys and stored data keys',
    columns: TENANT,
    nameOf: tenantName,
    destroy: async (keyward, request) => {
      const answer = await keyward.shredTenant(request);
      return { item: answer.tenant, answer };
    },
    lossOf: shredLoss,
    restore: (keyward, request) => keyward.restoreTenant(request),
  });
}

interface NewTenantOptions extends ChangeOptions {
  readonly dedicatedRootKey?: boolean;
}

function addCreateTenant(tenants: Command): void {
  withRequestId(tenants.command('create <tenant>'))
    .description('create a tenant: acme or tenants/acme')
    .option(
      '--dedicated-root-key',
      'give it its own root key in the HSM, so that it can be shredded beyond every ' +
        'backup; permanent',
    )
    .action((tenant: string, _options, command: Command) =>
      withClient<NewTenantOptions>(
        command,
        async (keyward, { output, dedicatedRootKey, ...options }) => {
          const tenantId = lastPart(tenantName(tenant));
          const request = { tenantId, ...given({ dedicatedRootKey }), ...changeOf(options) };
          await output.one(TENANT, await keyward.createTenant(request));
        },
      ),
    );
}

interface UpdateTenantOptions extends ChangeOptions {
  readonly callsPerSecond?: number;
  readonly keys?: number;
  readonly storedDataKeys?: number;
}

function addUpdateTenant(tenants: Command): void {
  withEtag(tenants.command('update <tenant>'))
    .description('change the quotas of a tenant')
    .option(
      '--calls-per-second <count>',
      'calls per second, on all replicas together; each item of a batch counts',
      count,
    )
    .option('--keys <count>', 'keys, not counting destroyed ones', count)
    .option('--stored-data-keys <count>', 'stored data keys of all its keys together', count)
    .addHelpText('after', "\n0 is the service's default. Other quotas stay unchanged.")
    .action((tenant: string, _options, command: Command) =>
      withClient<UpdateTenantOptions>(command, async (keyward, { output, ...options }) => {
        const { callsPerSecond, keys, storedDataKeys } = options;
        const quotas = given({ callsPerSecond, keys, storedDataKeys });
        if (Object.keys(quotas).length === 0) {
          throw new UsageError(
            'cannot change the quotas: no change is named; give --calls-per-second, --keys ' +
              'or --stored-data-keys',
          );
        }
        const { etag = '', ...change } = changeOf(options);
        const name = tenantName(tenant);
        const updated = await keyward.updateTenant({ tenant: { name, etag, quotas }, ...change });
        await output.one(TENANT, updated);
      }),
    );
}

/** Adds `maintenance`. */
export function addMaintenance(program: Command): void {
  const maintenance = program
    .command('maintenance')
    .description(
      'pause and resume automatic work for all tenants: rotation, re-wrapping, destruction',
    );
  maintenance
    .command('status')
    .description('show whether it is paused')
    .action((_options, command: Command) =>
      withClient(command, async (keyward, { output }) => {
        await output.one(MAINTENANCE, await keyward.getMaintenance());
      }),
    );
  addSwitch(
    maintenance.command('pause'),
    'stop it on every replica until it is resumed; "keyward keys pause" stops it for one key',
    (keyward, request) => keyward.pauseMaintenance(request),
  );
  addSwitch(
    maintenance.command('resume'),
    'resume it; what became due meanwhile is done now',
    (keyward, request) => keyward.resumeMaintenance(request),
  );
}

function addSwitch(
  command: Command,
  description: string,
  change: (
    keyward: KeywardClient,
    request: { readonly requestId?: string },
  ) => Promise<Maintenance>,
): void {
  withRequestId(command)
    .description(description)
    .action((_options, itself: Command) =>
      withClient<ChangeOptions>(itself, async (keyward, { output, ...options }) => {
        await output.one(MAINTENANCE, await change(keyward, changeOf(options)));
      }),
    );
}
