/**
 * Adds `keyward version`: the command's release, and the service's where it can be had.
 */
import type { Command } from 'commander';
import manifest from '../package.json' with { type: 'json' };
import { describe } from './failures.ts';
import { optionsOf } from './globals.ts';
import type { Columns } from './output/output.ts';
import { connectionOf, withClient } from './session.ts';

interface Versions {
  readonly command: string;
  readonly service?: string;
  readonly address?: string;
  /** Why the service's release is not known. */
  readonly unknown?: string;
}

const VERSIONS: Columns<Versions> = {
  COMMAND: ({ command }) => command,
  SERVICE: ({ service = 'not known' }) => service,
  ADDRESS: ({ address = '' }) => address,
};

/** Adds `version`. */
export function addVersion(program: Command): void {
  program
    .command('version')
    .description("show the release of the command, and the service's where you may see it")
    .action(async (_options, command: Command) => {
      const { output } = optionsOf(command);
      const versions = { command: manifest.version, ...(await ofService(command)) };
      await output.one(VERSIONS, versions);
      const { unknown } = versions;
      if (unknown !== undefined && !output.isData)
        output.remark(`the service's release is not known: ${unknown}`);
    });
}

async function ofService(command: Command): Promise<Omit<Versions, 'command'>> {
  let address: string | undefined;
  try {
    address = connectionOf(optionsOf(command)).settings.address;
    let service = '';
    await withClient(
      command,
      async (keyward) => {
        service = (await keyward.getServiceStatus()).release;
      },
      { retries: 0 },
    );
    return { service, address };
  } catch (error) {
    return { ...(address !== undefined && { address }), unknown: describe(error) };
  }
}
