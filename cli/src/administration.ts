/**
 * `keyward tenants …` and `keyward maintenance …`.
 *
 * Owns their words and arguments; each is one call of the client.
 */
import type { Command } from 'commander';
import type { KeywardClient, Maintenance } from 'keyward-client';
import { addChange } from './changes.ts';
import { addDestruction, shredLoss } from './destruction.ts';
import { lastPart, tenantName } from './names.ts';
import {
  type ChangeOptions,
  changeOf,
  given,
  type ListOptions,
  withFilter,
  withRequestId,
} from './options.ts';
import { MAINTENANCE, printAll, printOne, TENANT } from './print.ts';
import { withClient } from './session.ts';

/** Adds `tenants`. */
export function addTenants(program: Command): void {
  const tenants = program.command('tenants').description('the tenants that share the service');
  addCreateTenant(tenants);
  withFilter(tenants.command('list'), 'state')
    .description('list all tenants')
    .action((_options, command: Command) =>
      withClient<ListOptions>(command, (keyward, { output, filter = '' }) =>
        printAll(output, TENANT, keyward.tenants({ filter })),
      ),
    );
  tenants
    .command('get <tenant>')
    .description('show one tenant')
    .action((tenant: string, _options, command: Command) =>
      withClient(command, async (keyward, { output }) => {
        await printOne(output, TENANT, await keyward.getTenant({ name: tenantName(tenant) }));
      }),
    );
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
    does: 'schedule a tenant to be shredded, with all of its keys and stored data keys',
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
      'with a root key of its own in the HSM, so that it can be shredded beyond every backup; for good',
    )
    .action((tenant: string, _options, command: Command) =>
      withClient<NewTenantOptions>(command, async (keyward, { output, dedicatedRootKey, ...options }) => {
        const tenantId = lastPart(tenantName(tenant));
        const request = { tenantId, ...given({ dedicatedRootKey }), ...changeOf(options) };
        await printOne(output, TENANT, await keyward.createTenant(request));
      }),
    );
}

/** Adds `maintenance`. */
export function addMaintenance(program: Command): void {
  const maintenance = program
    .command('maintenance')
    .description('what the service does by itself, for all tenants: rotating, re-wrapping, destroying');
  maintenance
    .command('status')
    .description('show whether it stands still')
    .action((_options, command: Command) =>
      withClient(command, async (keyward, { output }) => {
        await printOne(output, MAINTENANCE, await keyward.getMaintenance());
      }),
    );
  addSwitch(
    maintenance.command('pause'),
    'stop all of it, on every replica, until it is resumed; "keyward keys pause" stops it for one key',
    (keyward, request) => keyward.pauseMaintenance(request),
  );
  addSwitch(
    maintenance.command('resume'),
    'undo pause: what became due meanwhile is done now',
    (keyward, request) => keyward.resumeMaintenance(request),
  );
}

function addSwitch(
  command: Command,
  description: string,
  change: (keyward: KeywardClient, request: { readonly requestId?: string }) => Promise<Maintenance>,
): void {
  withRequestId(command)
    .description(description)
    .action((_options, itself: Command) =>
      withClient<ChangeOptions>(itself, async (keyward, { output, ...options }) => {
        await printOne(output, MAINTENANCE, await change(keyward, changeOf(options)));
      }),
    );
}
