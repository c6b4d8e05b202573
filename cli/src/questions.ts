/**
 * Adds `keyward access test` and `access explain`: what a caller may do, and why.
 *
 * - It puts the answers in sentences, and changes nothing.
 */
import type { Command } from 'commander';
import type { AccessObstacle, ConsideredBinding, ExplainAccessResponse } from 'keyward-client';
import { printText } from './files.ts';
import { scopeName, tenantName } from './names.ts';
import { claimPath, contextOption, type Pairs, pairsOption, wordsOption } from './options.ts';
import { printable } from './output/printable.ts';
import { PERMISSION } from './output/resources.ts';
import { withClient } from './session.ts';

/** Adds `test` and `explain`. */
export function addQuestions(access: Command): void {
  addTest(access);
  addExplain(access);
}

interface TestOptions {
  readonly context: Pairs;
}

function addTest(access: Command): void {
  access
    .command('test <resource> <permissions...>')
    .description('show which permissions you have on a tenant or a key; every caller may ask')
    .addOption(contextOption())
    .addHelpText(
      'after',
      '\nThe exit code is 1 if one of them is missing.' +
        '\n\n  keyward access test tenants/acme/keys/orders data.encrypt data.decrypt ' +
        '--context order=17',
    )
    .action((given: string, permissions: string[], _options, command: Command) =>
      withClient<TestOptions>(command, async (keyward, { output, tenant, context }) => {
        const resource = scopeName(given, tenant);
        const answer = await keyward.testPermissions({
          resource,
          permissions,
          encryptionContext: context,
        });
        const rows = permissions.map((permission) => ({
          permission,
          allowed: answer.permissions.includes(permission),
        }));
        await (output.isData ? output.data(answer) : output.table(PERMISSION, rows));
        const missing = rows.filter(({ allowed }) => !allowed).map(({ permission }) => permission);
        if (missing.length > 0)
          throw new Error(`permissions missing on ${resource}: ${missing.join(', ')}`);
      }),
    );
}

interface ExplainOptions extends TestOptions {
  readonly principal: string;
  readonly group: readonly string[];
  readonly claim: Pairs;
  readonly tokenTenant: readonly string[];
}

function addExplain(access: Command): void {
  access
    .command('explain <resource> <permission>')
    .description(
      'show whether a caller has a permission on a tenant or a key, and what their bindings lack',
    )
    .requiredOption('--principal <name>', 'the caller, as whoami shows it')
    .addOption(wordsOption('--group <issuer/group>', 'a group in the caller’s token; repeatable'))
    .addOption(
      pairsOption('--claim', 'a claim in the caller’s token that a binding asks for; repeatable'),
    )
    .addOption(
      wordsOption(
        '--token-tenant <tenant>',
        'a tenant that the caller’s token is valid for, if for some only; repeatable',
      ),
    )
    .addOption(contextOption())
    .addHelpText(
      'after',
      '\nDecides by the given options, and reads no token. Claims are named as in "access ' +
        'bind". The exit code' +
        '\nis 0 whatever the answer is.' +
        '\n\n  keyward access explain tenants/acme/keys/orders data.decrypt --principal ' +
        'jwt:corp/alice --group corp/support',
    )
    .action((given: string, permission: string, _options, command: Command) =>
      withClient<ExplainOptions>(command, async (keyward, { output, tenant, ...options }) => {
        const { principal, group, claim, context, tokenTenant } = options;
        const question = { resource: scopeName(given, tenant), permission, principal };
        const answer = await keyward.explainAccess({
          ...question,
          groups: group,
          claims: [...claim].map(([path, value]) => ({ claim: claimPath(path), value })),
          encryptionContext: context,
          limitedToTenants: tokenTenant.length > 0,
          tenants: tokenTenant.map((name) => tenantName(name)),
        });
        if (output.isData) return output.data(answer);
        const hasContext = context.size > 0;
        const lines = explanation(answer, { ...question, hasContext }).map(printable);
        await printText(`${lines.join('\n')}\n`);
      }),
    );
}

interface Question {
  readonly resource: string;
  readonly permission: string;
  readonly principal: string;
  readonly hasContext: boolean;
}

/** The answer in a line, an empty one, and a line for each binding. */
function explanation(answer: ExplainAccessResponse, question: Question): string[] {
  const { principal, permission, resource } = question;
  const { allowed, roleBinding, considered, tokenTenant } = answer;
  const proof = tokenTenant === '' ? '' : `, with a token that is valid for ${tokenTenant}`;
  const verdict = allowed
    ? `${principal} has ${permission} on ${resource}, by ${roleBinding}${proof}.`
    : `${principal} does not have ${permission} on ${resource}.`;
  if (considered.length === 0)
    return [verdict, '', 'No role binding is for that caller or those groups.'];
  return [verdict, '', ...considered.map((binding) => sentence(binding, question))];
}

function sentence({ roleBinding, role, obstacles }: ConsideredBinding, question: Question): string {
  const lacks = obstacles.map((obstacle) => obstacleIn(obstacle, question)).join(', and ');
  return `${role === '' ? roleBinding : `${roleBinding} (${role})`}: ${lacks || 'allows it'}.`;
}

function obstacleIn(
  obstacle: AccessObstacle,
  { permission, resource, hasContext }: Question,
): string {
  switch (obstacle) {
    case 'PERMISSION':
      return `the role does not have ${permission}`;
    case 'KEY':
      return resource.includes('/keys/')
        ? 'it is for other keys'
        : 'it is only for some keys, not for the tenant as a whole';
    case 'EXPIRED':
      return 'it has expired';
    case 'CONTEXT':
      return hasContext
        ? 'the encryption context does not meet its conditions'
        : 'it requires an encryption context, and none is given';
    case 'TENANT':
      return 'the token is not valid for the tenant';
    case 'ISSUER':
      return 'the service trusts no issuer of the caller’s name';
    case 'UNSPECIFIED':
      return 'an obstacle applies that this release of the command does not know';
  }
}
