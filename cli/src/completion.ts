/**
 * Adds `keyward completion`: scripts by which shells complete commands, options and names.
 *
 * - The scripts ask the command itself, by a hidden `__complete`, for the words that may come next.
 * - Names are asked of the service, for a second at most unless `--timeout` was typed; what fails
 *   is silent.
 * - Nothing that a shell could take for more than a word is offered.
 */
import type { Command, Option } from 'commander';
import type { KeywardClient } from 'keyward-client';
import { UsageError } from './failures.ts';
import { printText } from './files.ts';
import { optionsOf } from './globals.ts';
import { lastPart, type Tenant, tenantName } from './names.ts';
import { readProfiles } from './profiles.ts';
import { withClient } from './session.ts';

/** How long the service may take, in milliseconds. */
const PATIENCE_MS = 1_000;

/** The most names that are offered. */
const MOST = 100;

/** What tenants have, by the arguments that name one: the word in its name, and its list. */
const OF_TENANTS: Readonly<Record<string, readonly [collection: string, list: List]>> = {
  key: ['keys', (keyward, tenant) => keyward.keys(tenant)],
  job: ['rewrapJobs', (keyward, tenant) => keyward.rewrapJobs(tenant)],
  binding: ['roleBindings', (keyward, tenant) => keyward.roleBindings(tenant)],
  canary: ['canaries', (keyward, tenant) => keyward.canaries(tenant)],
  suspension: ['suspensions', (keyward, tenant) => keyward.suspensions(tenant)],
  operation: ['pendingOperations', (keyward, tenant) => keyward.pendingOperations(tenant)],
};

type List = (keyward: KeywardClient, tenant: string) => AsyncIterable<{ readonly name: string }>;

const SCRIPTS: Readonly<Record<string, string>> = {
  bash: `_keyward() {
  mapfile -t COMPREPLY < <("$1" __complete -- "\${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
  if [[ \${#COMPREPLY[@]} -eq 1 && \${COMPREPLY[0]} == */ ]]; then
    compopt -o nospace 2>/dev/null
  fi
}
complete -o default -F _keyward keyward
`,
  zsh: `#compdef keyward
_keyward() {
  local -a found
  found=("\${(@f)$("\${words[1]}" __complete -- "\${(@)words[2,CURRENT]}" 2>/dev/null)}")
  found=(\${found:#})
  if (( \${#found} )); then
    compadd -S '' -- \${(M)found:#*/}
    compadd -- \${found:#*/}
  else
    _files
  fi
}
compdef _keyward keyward
`,
  fish: `function __keyward_complete
  set -l typed (commandline -opc) (commandline -ct)
  set -l found ($typed[1] __complete -- $typed[2..-1] 2>/dev/null)
  if set -q found[1]
    printf '%s\\n' $found
  else
    __fish_complete_path (commandline -ct)
  end
end
complete -c keyward -f -a '(__keyward_complete)'
`,
};

const COMPLETION_HELP = `
  source <(keyward completion bash)                                    # in ~/.bashrc
  source <(keyward completion zsh)                                     # in ~/.zshrc, after compinit
  keyward completion fish > ~/.config/fish/completions/keyward.fish    # once`;

/** Adds `completion`, and what its scripts call. */
export function addCompletion(program: Command): void {
  program
    .command('completion <shell>')
    .description('print the script by which bash, zsh or fish completes the command')
    .addHelpText('after', COMPLETION_HELP)
    .action(async (shell: string) => {
      const script = Object.hasOwn(SCRIPTS, shell) ? SCRIPTS[shell] : undefined;
      if (script === undefined)
        throw new UsageError(
          `cannot complete in ${shell}: known are ${Object.keys(SCRIPTS).join(', ')}`,
        );
      await printText(script);
    });
  program
    .command('__complete [words...]', { hidden: true })
    .action(async (typed: string[], _options, command: Command) => {
      const { words, before } = separated(typed);
      const found = await completions(program, words, command).catch(() => []);
      const last = words.at(-1) ?? '';
      const fitting = found.filter(
        (word) => word.startsWith(last) && /^[\w@%+=:,./-]+$/.test(word),
      );
      await printText(
        fitting
          .slice(0, MOST)
          .map((word) => `${before}${word}\n`)
          .join(''),
      );
    });
}

/**
 * Returns the words with options and their values apart, and what of the last one stands before
 * what is completed. Where `--output=json` is one word to zsh and fish, it is three to bash.
 */
function separated(typed: readonly string[]): { words: readonly string[]; before: string } {
  const valueAfter = /^(--[\w-]+=)(.*)$/s;
  const words = typed.flatMap((word, at) => {
    if (word === '=') return at === typed.length - 1 ? [''] : [];
    const [, option, value] = valueAfter.exec(word) ?? [];
    return option === undefined ? [word] : [option.slice(0, -1), value ?? ''];
  });
  const [, before = ''] = valueAfter.exec(typed.at(-1) ?? '') ?? [];
  return { words, before };
}

/** Returns what may stand in the place of the last word. */
async function completions(
  program: Command,
  words: readonly string[],
  asking: Command,
): Promise<readonly string[]> {
  const last = words.at(-1) ?? '';
  const { command, positionals, awaiting, isHelp } = walk(program, words.slice(0, -1));
  // An option whose value is being typed has none yet, and could not be read.
  const typed = words.slice(0, awaiting === undefined ? -1 : -2);
  const ask = () => names(asking, program, typed, last);
  if (awaiting !== undefined) return valuesOf(awaiting, ask);
  if (last.startsWith('-')) return optionNames(program, command);
  const groups = command.createHelp().visibleCommands(command);
  if (groups.length > 0 && positionals === 0) return groups.map((each) => each.name());
  if (isHelp) return [];
  const expected = command.registeredArguments;
  const argument = expected[positionals] ?? expected.findLast(({ variadic }) => variadic);
  if (argument === undefined) return [];
  if (argument.name() === 'shell') return Object.keys(SCRIPTS);
  if (argument.name() === 'name') return profileNames();
  const { tenants, ofTenant } = await ask();
  if (argument.name() === 'tenant') return tenants();
  return ['resource', 'scope'].includes(argument.name())
    ? [...(await tenants()), ...(await ofTenant('key'))]
    : ofTenant(argument.name());
}

/**
 * Where words lead: the command, its arguments so far, the option that lacks its value, and whether
 * only help is asked for.
 */
function walk(program: Command, words: readonly string[]) {
  let command = program;
  let positionals = 0;
  let awaiting: Option | undefined;
  let isHelp = false;
  for (const word of words) {
    if (awaiting !== undefined) awaiting = undefined;
    else if (word.startsWith('-')) {
      const option = [...command.options, ...program.options].find(({ short, long }) =>
        [short, long].includes(word),
      );
      if (option?.required) awaiting = option;
    } else {
      const found = command.commands.find((each) => each.name() === word);
      if (word === 'help' && command.commands.length > 0) isHelp = true;
      else if (found !== undefined) command = found;
      else positionals += 1;
    }
  }
  return { command, positionals, awaiting, isHelp };
}

type Ask = () => ReturnType<typeof names>;

async function valuesOf(option: Option, ask: Ask): Promise<readonly string[]> {
  if (option.argChoices !== undefined) return option.argChoices;
  if (option.long === '--profile') return profileNames();
  const { tenants, ofTenant, roles } = await ask();
  const kinds: Readonly<Record<string, () => Promise<string[]>>> = {
    '--tenant': tenants,
    '--key': () => ofTenant('key'),
    '--source-key': () => ofTenant('key'),
    '--role': roles,
  };
  return (await kinds[option.long ?? '']?.()) ?? [];
}

function optionNames(program: Command, command: Command): readonly string[] {
  const options = [...command.options, ...program.options].filter(({ hidden }) => !hidden);
  return ['--help', ...options.flatMap(({ long }) => long ?? [])];
}

function profileNames(): readonly string[] {
  return [...(readProfiles()?.byName.keys() ?? [])];
}

/** Asks the service for names, with the options that the words have so far. */
async function names(asking: Command, program: Command, words: readonly string[], last: string) {
  program.parseOptions([...words]);
  if (program.getOptionValueSource('timeout') !== 'cli')
    program.setOptionValue('timeout', PATIENCE_MS);
  const ask = (work: Parameters<typeof withClient>[1]) =>
    withClient(asking, work, { retries: 0 }).catch(() => {});
  const tenants = async () => {
    const found: string[] = [];
    await ask(async (keyward) => {
      for await (const { name } of keyward.tenants())
        if (found.push(last.includes('/') ? name : lastPart(name)) >= MOST) return;
    });
    return found;
  };
  const ofTenant = async (argument: string) => {
    const found: string[] = [];
    const kind = Object.hasOwn(OF_TENANTS, argument) ? OF_TENANTS[argument] : undefined;
    if (kind === undefined) return found;
    const [collection, list] = kind;
    const [, typed] = /^tenants\/([^/]+)\//.exec(last) ?? [];
    await ask(async (keyward, { tenant }) => {
      const whose: Tenant | undefined = typed ? { name: typed, isGiven: true } : tenant;
      if (whose === undefined || (last.includes('/') && !typed)) {
        for await (const { name } of keyward.tenants())
          if (found.push(`${name}/${collection}/`) >= MOST) return;
        return;
      }
      for await (const { name } of list(keyward, tenantName(whose.name)))
        if (found.push(typed ? name : lastPart(name)) >= MOST) return;
    });
    return found;
  };
  const roles = async () => {
    const found: string[] = [];
    await ask(async (keyward, { tenant }) => {
      const whose = optionsOf(asking).tenant ?? tenant ?? { name: 'system' };
      const answer = await keyward.listRoles({ parent: tenantName(whose.name) });
      found.push(...answer.roles.map(({ name }) => name.replace(/^roles\//, '')));
    });
    return found;
  };
  return { tenants, ofTenant, roles };
}
