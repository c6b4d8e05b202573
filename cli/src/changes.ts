/**
 * Adds a command that changes the one resource that its argument names, and prints the result.
 */
import type { Command } from 'commander';
import type { KeywardClient } from 'keyward-client';
import type { Tenant } from './names.ts';
import { type ChangeOptions, changeOf, withEtag } from './options.ts';
import type { Columns } from './output/output.ts';
import { withClient } from './session.ts';

/** Describes such a command. */
export interface Change<Item> {
  readonly description: string;
  readonly columns: Columns<Item>;
  readonly nameOf: (given: string, tenant: Tenant | undefined) => string;
  readonly change: (
    keyward: KeywardClient,
    request: { readonly name: string } & ChangeOptions,
  ) => Promise<Item>;
}

/** Adds the command's description, options and action. */
export function addChange<Item>(
  command: Command,
  { description, columns, nameOf, change }: Change<Item>,
): void {
  withEtag(command)
    .description(description)
    .action((given: string, _options, itself: Command) =>
      withClient<ChangeOptions>(itself, async (keyward, { output, tenant, ...options }) => {
        const request = { name: nameOf(given, tenant), ...changeOf(options) };
        await output.one(columns, await change(keyward, request));
      }),
    );
}
