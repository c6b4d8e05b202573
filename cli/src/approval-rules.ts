/**
 * Adds `keyward approval-rules …`: which calls in a tenant want a fresh proof, or the approval of
 * others.
 *
 * - Rules are read from a file as a whole, in the JSON that `get --output json` prints; a member
 *   that no rule has is refused, so that a slip of the pen leaves no call without its rule.
 */
import type { Command } from 'commander';
import type {
  ApprovalRule,
  ApprovalRules,
  ApprovalRulesUpdate,
  ApprovalRuleUpdate,
  StepUpRule,
  StepUpRuleUpdate,
} from 'keyward-client';
import { writeDuration } from './durations.ts';
import { UsageError } from './failures.ts';
import { readInput } from './files.ts';
import { optionsOf } from './globals.ts';
import { afterTenant, oneTenant, type Tenant } from './names.ts';
import { type ChangeOptions, changeOf, withEtag } from './options.ts';
import type { Columns, Output } from './output/output.ts';
import { withClient } from './session.ts';

const MAX_BYTES = 1024 * 1024;
const STEP_UP = ['permissions', 'acrValues', 'amrValues', 'maxAgeSeconds', 'exemptPrincipals'];
const APPROVAL = [
  ...['ruleId', 'permissions', 'approvals', 'approvers', 'exemptPrincipals', 'breakGlass'],
];
const SET = ['name', 'etag', 'updateTime', 'revision', 'stepUpRules', 'approvalRules'];

const EXAMPLE = {
  stepUpRules: [
    { permissions: [], acrValues: [], amrValues: ['mfa'], maxAgeSeconds: 900 },
    { permissions: ['keys.destroy'], acrValues: [], amrValues: ['hwk'], maxAgeSeconds: 300 },
  ],
  approvalRules: [
    { ruleId: 'default', permissions: [], approvals: 1, approvers: [] },
    {
      ruleId: 'shred',
      permissions: ['tenants.shred'],
      approvals: 2,
      approvers: ['group:corp/security-officers'],
      exemptPrincipals: [],
    },
  ],
};

interface SetOptions extends ChangeOptions {
  readonly validateOnly?: boolean;
}

/** Adds `approval-rules`. */
export function addApprovalRules(program: Command): void {
  const rules = program
    .command('approval-rules')
    .description('which calls in a tenant want a fresh proof, or the approval of others');
  rules
    .command('get [tenant]')
    .description('show the rules of a tenant; those of system hold in every tenant besides')
    .action((whose: string | undefined, _options, command: Command) =>
      withClient(command, async (keyward, { output, tenant }) => {
        const name = nameOf(whose, tenant, 'get');
        await printRules(output, await keyward.getApprovalRules({ name }));
      }),
    );
  withEtag(rules.command('set [tenant] [file]'))
    .description("replace the rules of a tenant by those of a file, or of standard input for '-'")
    .option('--validate-only', 'only show what the rules would be')
    .addHelpText(
      'after',
      '\nThe file has the JSON of "keyward approval-rules get … --output json", whose etag says ' +
        'which rules\nit is to replace; --etag goes before it.' +
        '\n\n  keyward approval-rules get acme --output json > rules.json' +
        '\n  keyward approval-rules set acme rules.json' +
        '\n  keyward approval-rules set rules.json --tenant acme',
    )
    .action((...[first, second, , command]: [string?, string?, object?, Command?]) =>
      withClient<SetOptions>(command as Command, async (keyward, all) => {
        const { output, tenant, validateOnly, ...options } = all;
        const [whose, file] = afterTenant([first, second], tenant);
        const name = nameOf(whose, tenant, 'set');
        const { etag, ...change } = changeOf(options);
        const read = await readRules(file, name);
        const approvalRules = { ...read, name, ...(etag === undefined ? {} : { etag }) };
        const request = { approvalRules, validateOnly: validateOnly ?? false, ...change };
        await printRules(output, await keyward.updateApprovalRules(request));
      }),
    );
  rules
    .command('example')
    .description('print rules to begin with, for "keyward approval-rules set"')
    .action((_options, command: Command) => optionsOf(command).output.data(EXAMPLE));
}

function nameOf(whose: string | undefined, tenant: Tenant | undefined, verb: string): string {
  const question =
    `cannot ${verb} the rules: no tenant is named; write keyward approval-rules ${verb} acme, or ` +
    'system for those that hold in every tenant';
  return `${oneTenant(whose, tenant, question)}/approvalRules`;
}

/** Reads rules. Throws UsageError for what are none, or those of another tenant. */
async function readRules(file: string | undefined, name: string): Promise<ApprovalRulesUpdate> {
  const from = file === undefined || file === '-' ? 'standard input' : file;
  const bytes = await readInput(
    file,
    MAX_BYTES,
    () => `cannot use ${from}: it is too long for rules`,
  );
  let given: unknown;
  try {
    given = JSON.parse(bytes.toString('utf8'));
  } catch (cause) {
    throw new UsageError(`cannot use ${from}: it is not JSON`, { cause });
  }
  const known = membersOf(from, 'the rules', given, SET);
  if (known['name'] !== undefined && known['name'] !== name)
    throw new UsageError(`cannot use ${from}: it has ${known['name']}, not ${name}`);
  return {
    name,
    ...(known['etag'] === undefined ? {} : { etag: String(known['etag']) }),
    stepUpRules: listOf<StepUpRuleUpdate>(from, 'stepUpRules', known, STEP_UP),
    approvalRules: listOf<ApprovalRuleUpdate>(from, 'approvalRules', known, APPROVAL),
  };
}

/** Returns a list of rules; what their members may be, the client and the service check. */
function listOf<Rule>(
  from: string,
  list: string,
  rules: Readonly<Record<string, unknown>>,
  members: readonly string[],
): Rule[] {
  const given = rules[list] ?? [];
  if (!Array.isArray(given)) throw new UsageError(`cannot use ${from}: ${list} is not a list`);
  return given.map((rule) => membersOf(from, `a rule in ${list}`, rule, members) as Rule);
}

function membersOf(
  from: string,
  what: string,
  given: unknown,
  members: readonly string[],
): Readonly<Record<string, unknown>> {
  if (typeof given !== 'object' || given === null || Array.isArray(given))
    throw new UsageError(`cannot use ${from}: ${what} must be an object`);
  const unknown = Object.keys(given).find((member) => !members.includes(member));
  if (unknown !== undefined)
    throw new UsageError(
      `cannot use ${from}: ${what} cannot have ${unknown}; known are ${members.join(', ')}`,
    );
  return given as Readonly<Record<string, unknown>>;
}

const ALL_DANGEROUS = 'all that are dangerous';
const listed = (values: readonly string[] | undefined, otherwise: string) =>
  values?.length ? values.join(', ') : otherwise;

const STEP_UP_RULE: Columns<StepUpRule> = {
  'PERMISSIONS (STEP-UP)': ({ permissions }) => listed(permissions, ALL_DANGEROUS),
  ACR: ({ acrValues }) => listed(acrValues, 'any'),
  AMR: ({ amrValues }) => listed(amrValues, 'any'),
  'MAX AGE': ({ maxAgeSeconds }) => writeDuration(maxAgeSeconds ?? 0),
  EXEMPT: ({ exemptPrincipals }) => listed(exemptPrincipals, 'no caller'),
};

const APPROVAL_RULE: Columns<ApprovalRule> = {
  'RULE (APPROVAL)': ({ ruleId }) => ruleId,
  PERMISSIONS: ({ permissions }) => listed(permissions, ALL_DANGEROUS),
  APPROVALS: ({ approvals }) => String(approvals),
  'FOR EMERGENCIES': ({ breakGlass }) => (breakGlass ? 'yes' : 'no'),
  APPROVERS: ({ approvers }) => listed(approvers, 'who may approve there'),
  EXEMPT: ({ exemptPrincipals }) => listed(exemptPrincipals, 'no caller'),
};

async function printRules(output: Output, rules: ApprovalRules): Promise<void> {
  const { stepUpRules, approvalRules } = rules;
  const none = stepUpRules.length + approvalRules.length === 0 ? '\nNo rules.\n' : '';
  await output.described(rules, `${rules.name}, revision ${rules.revision}\n${none}`);
  if (output.isData || output.format === 'name') return;
  if (stepUpRules.length > 0) await output.table(STEP_UP_RULE, stepUpRules, '\n');
  if (approvalRules.length > 0) await output.table(APPROVAL_RULE, approvalRules, '\n');
}
