#!/usr/bin/env node
/**
 * Runs the `keyward` command: collects the commands, and ends with an exit code.
 *
 * - It owns what all commands share: connection options, output format and help.
 */
import { Command, InvalidArgumentError, Option } from 'commander';
import manifest from '../package.json' with { type: 'json' };
import { addAccess } from './access.ts';
import { addMaintenance, addTenants } from './administration.ts';
import { addAlerts } from './alerts.ts';
import { addApprovalRules } from './approval-rules.ts';
import { addApprovals } from './approvals.ts';
import { addAudit } from './audit.ts';
import { addWhoami } from './callers.ts';
import { addCanaries, addSuspensions } from './canaries.ts';
import { addStoredDataKeys } from './data-keys.ts';
import { addDoctor } from './doctor/doctor.ts';
import { addEncryptedFiles } from './encrypted-files/command.ts';
import { addDataKey, addDecrypt, addEncrypt, addRandom, addReEncrypt } from './encryption.ts';
import { printable, report } from './failures.ts';
import { addHsm } from './hsm.ts';
import { addJobs } from './jobs.ts';
import { addKeys } from './keys.ts';
import { addLogin } from './login.ts';
import { addPasskeys } from './passkeys.ts';
import { addProfiles } from './profile-commands.ts';
import { addStatus } from './status.ts';
import { addToken } from './token.ts';

const AFTER_HELP = `
Flags take precedence over variables, and variables over a profile (see "keyward profiles
--help"). "npm start" makes profiles for its folder, .keyward/profiles.json, and allows them.

Write durations as 90d, 12h, 30m or 45s, and times in RFC 3339: 2027-01-31T12:00:00Z.

Exit codes: 0 done; 1 the service refused, or its answer could not be written, or a watched job
ended PARTIAL or CANCELLED, or a tested permission is missing, or a receiver did not take a test, or
an export failed verification, or the service's status has something to look into;
2 an argument, option or file cannot be used; 3 the service cannot be reached; 4 the call waits for
others to approve it. KEYWARD_DEBUG=1 shows where an error came from.`;

function build(): Command {
  const program = new Command('keyward')
    .description('Manage keys, encrypt and decrypt with the Keyward key management service.')
    .version(manifest.version)
    .addOption(
      new Option('--output <format>', 'the output format')
        .choices(['table', 'json'])
        .default('table'),
    )
    .option('--profile <name>', 'the profile to use (KEYWARD_PROFILE; see "keyward profiles")')
    .option('--address <host:port>', 'the address of the service (KEYWARD_ADDRESS)')
    .option('--ca-file <file>', "PEM of the CA of the service's certificate (KEYWARD_CA_FILE)")
    .option('--cert-file <file>', 'PEM of your certificate (KEYWARD_CERT_FILE)')
    .option('--key-file <file>', "PEM of your certificate's private key (KEYWARD_KEY_FILE)")
    .option(
      '--token-file <file>',
      'your token, alone or bound to your certificate (KEYWARD_TOKEN_FILE)',
    )
    .option(
      '--server-name <name>',
      "the name in the service's certificate, if not the host (KEYWARD_SERVER_NAME)",
    )
    .addOption(
      new Option('--timeout <seconds>', 'how long a call may take')
        .default(10_000, '10')
        .argParser(milliseconds),
    )
    .configureHelp({ showGlobalOptions: true })
    .configureOutput({
      outputError: (text, write) =>
        write(`${printable(text.trim().replace(/^error: /, 'keyward: '))}\n`),
    })
    .exitOverride()
    .addHelpText('after', AFTER_HELP);
  addStatus(program);
  addDoctor(program);
  addTenants(program);
  addKeys(program);
  addEncrypt(program);
  addDecrypt(program);
  addReEncrypt(program);
  addDataKey(program);
  addEncryptedFiles(program);
  addRandom(program);
  addStoredDataKeys(program);
  addJobs(program);
  addMaintenance(program);
  addAlerts(program);
  addHsm(program);
  addToken(program);
  addAccess(program);
  addApprovalRules(program);
  addApprovals(program);
  addPasskeys(program);
  addCanaries(program);
  addSuspensions(program);
  addLogin(program);
  addWhoami(program);
  addProfiles(program);
  addAudit(program);
  return program;
}

function milliseconds(text: string): number {
  const seconds = Number(text);
  if (!(seconds > 0 && seconds <= 86_400))
    throw new InvalidArgumentError('Write seconds, up to a day.');
  return seconds * 1000;
}

/** No top-level `await`: the bundled command is CommonJS, which has none. */
async function main(): Promise<void> {
  // Without listeners a reader that goes away would end the process with a stack trace; writers
  // handle the error.
  process.stdout.on('error', () => {});
  process.stderr.on('error', () => {});
  try {
    await build().parseAsync();
  } catch (error) {
    process.exitCode = report(error, Boolean(process.env['KEYWARD_DEBUG']));
  }
  // All is written. A connection that the network never answers would keep the process for minutes.
  process.exit();
}

void main();
