/**
 * Adds `keyward token …`: shows the HSM token that the service uses.
 *
 * - The table has a row for each object with what is wrong with it, and a second table lists what
 *   an operator has to do; JSON has every attribute.
 */
import type { Command } from 'commander';
import type { TokenStatus } from 'keyward-client';
import type { Output } from './output/output.ts';
import { printable } from './output/printable.ts';
import { TO_DO, TOKEN_OBJECT } from './output/resources.ts';
import { withClient } from './session.ts';

/** Adds `token`. */
export function addToken(program: Command): void {
  const token = program.command('token').description('show the HSM token that the service uses');
  token
    .command('status')
    .description(
      "show the token, the environment's objects in it, and how many key versions are " +
        'under each root key',
    )
    .addHelpText('after', '\n--output json shows every required attribute of every object.')
    .action((_options, command: Command) =>
      withClient(command, async (keyward, { output }) => {
        const status = await keyward.getTokenStatus();
        await (output.isData ? output.data(status) : printStatus(output, status));
      }),
    );
}

async function printStatus(output: Output, status: TokenStatus): Promise<void> {
  const head = `${headOf(status).map(printable).join('\n')}\n\n`;
  await output.table(TOKEN_OBJECT, [...status.objects, ...status.unrecordedObjects], head);
  const waiting = status.objects.filter(({ toDo }) => toDo !== '');
  if (waiting.length > 0) await output.table(TO_DO, waiting, '\n');
}

function headOf(status: TokenStatus): string[] {
  const { module, profile, model, manufacturer, firmwareVersion, hardwareVersion } = status;
  return [
    `Token: ${status.label}, serial ${status.serialNumber}, of environment ` +
      `${status.environmentUid}`,
    `Model: ${model} by ${manufacturer}, firmware ${firmwareVersion}, hardware ${hardwareVersion}`,
    `Module: ${module.description} ${module.version} by ${module.manufacturer}`,
    `Profile: ${profile.wrapMechanism}; ${profile.keyType}; ${profile.attributeOrder}; ` +
      `unsupported attributes: ${profile.unsupportedAttributes.join(', ') || 'none'}`,
  ];
}
