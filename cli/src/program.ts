/**
 * Collects the commands, and what all of them share: connection options, output format, help, and
 * how a failure ends one.
 */
import { Command, Help } from 'commander';
import manifest from '../package.json' with { type: 'json' };
import { addAccess } from './access.ts';
import { addMaintenance, addTenants } from './administration.ts';
import { addAlerts } from './alerts.ts';
import { addApprovalRules } from './approval-rules.ts';
import { addApprovals } from './approvals.ts';
import { addAudit } from './audit.ts';
import { addWhoami } from './callers.ts';
import { addCanaries, addSuspensions } from './canaries.ts';
import { addCompletion } from './completion.ts';
import { addStoredDataKeys } from './data-keys.ts';
import { addDoctor } from './doctor/doctor.ts';
import { addEncryptedFiles } from './encrypted-files/command.ts';
import { addDataKey, addDecrypt, addEncrypt, addRandom, addReEncrypt } from './encryption.ts';
import { EXIT_CODES, report } from './failures.ts';
import { addGlobals } from './globals.ts';
import { addHelp, explained, HELP } from './help.ts';
import { addHsm } from './hsm.ts';
import { addJobs } from './jobs.ts';
import { addKeys } from './keys.ts';
import { addLogin } from './login.ts';
import { type Format, isData } from './output/output.ts';
import { addPasskeys } from './passkeys.ts';
import { addProfiles } from './profile-commands.ts';
import { addStatus } from './status.ts';
import { addToken } from './token.ts';
import { addVersion } from './version.ts';

/** An exit code and what it means, at 80 columns. */
function exitCode(meaning: string, code: number): string {
  return `  ${code}  ${new Help().boxWrap(meaning, 75).replaceAll('\n', '\n     ')}`;
}

const AFTER_HELP = `
Flags take precedence over variables, and variables over a profile (see "keyward profiles
--help"). "npm start" makes profiles for its folder, .keyward/profiles.json, and allows them.

Write durations as 90d, 12h, 30m, 45s or 1h30m, and times in RFC 3339, 2027-01-31T12:00:00Z, or as a
duration: from now on, or for --since and --until before now.

Exit codes:
${EXIT_CODES.map(exitCode).join('\n')}
KEYWARD_DEBUG=1 shows where an error came from.`;

/** Returns the command, with nothing run yet. */
export function buildProgram(): Command {
  const program = new Command('keyward')
    .description('Manage keys, encrypt and decrypt with the Keyward key management service.')
    .version(manifest.version)
    .configureHelp(HELP)
    .configureOutput({
      // Errors are reported below, and help is what was asked for.
      outputError: () => {},
      writeErr: (text) => process.stdout.write(text),
    })
    .exitOverride()
    .addHelpText('after', AFTER_HELP);
  addGlobals(program);
  program.commandsGroup('Encrypt and decrypt:');
  addEncrypt(program);
  addDecrypt(program);
  addReEncrypt(program);
  addDataKey(program);
  addEncryptedFiles(program);
  addRandom(program);
  program.commandsGroup('Keys:');
  addTenants(program);
  addKeys(program);
  addStoredDataKeys(program);
  addJobs(program);
  program.commandsGroup('Access:');
  addAccess(program);
  addApprovalRules(program);
  addApprovals(program);
  addPasskeys(program);
  addCanaries(program);
  addSuspensions(program);
  program.commandsGroup('The service:');
  addStatus(program);
  addDoctor(program);
  addAudit(program);
  addAlerts(program);
  addMaintenance(program);
  addHsm(program);
  addToken(program);
  program.commandsGroup('You and this command:');
  addLogin(program);
  addWhoami(program);
  addProfiles(program);
  addCompletion(program);
  addVersion(program);
  addHelp(program);
  return program;
}

/** Runs the command that `process.argv` names, and sets `process.exitCode`. */
export async function runProgram(): Promise<void> {
  const program = buildProgram();
  try {
    await program.parseAsync();
  } catch (error) {
    const debug = Boolean(process.env['KEYWARD_DEBUG']);
    const { output } = program.opts<{ readonly output: Format }>();
    process.exitCode = report(explained(program, error), { asData: isData(output), debug });
  }
}
