/**
 * Shows help, and what a user may have meant by a command that does not exist.
 */
import { type Command, CommanderError, Help } from 'commander';
import { UsageError } from './failures.ts';
import { suggestions } from './suggestions.ts';

/** How help is laid out: commands come first, then options, then those of every command. */
export const HELP = { showGlobalOptions: true, formatHelp };

function formatHelp(command: Command, help: Help): string {
  refuseUnknown(command);
  const sections = Help.prototype.formatHelp.call(help, command, help).trimEnd().split('\n\n');
  const isOptions = (section: string) => /^(Global )?Options:/.test(section);
  const others = sections.filter((section) => !isOptions(section));
  return `${[...others, ...sections.filter(isOptions)].join('\n\n')}\n`;
}

/** Throws for a word that is no command, of which commander would show the help of its group. */
function refuseUnknown(command: Command): void {
  const [word = '-'] = command.args;
  const isKnown = command.commands.some((each) => each.name() === word);
  if (command.commands.length === 0 || isKnown || word.startsWith('-')) return;
  let program = command;
  while (program.parent !== null) program = program.parent;
  throw unknownCommand(program, wordsOf(program));
}

function wordsOf(program: Command): string[] {
  return program.args.filter((word) => !word.startsWith('-'));
}

/** Adds `help`, which takes the words of a command. */
export function addHelp(program: Command): void {
  program
    .helpCommand(false)
    .command('help [command...]')
    .description('show the help of a command')
    .action((words: string[]) => {
      let command = program;
      for (const word of words) {
        const found = command.commands.find((each) => each.name() === word);
        if (found === undefined) throw unknownCommand(program, words);
        command = found;
      }
      command.help();
    });
}

/** Returns what to report for what commander has thrown: of an unknown command, what was meant. */
export function explained(program: Command, error: unknown): unknown {
  if (!(error instanceof CommanderError)) return error;
  const words = wordsOf(program);
  const isUnknown =
    error.code === 'commander.unknownCommand' ||
    (error.code === 'commander.excessArguments' && isGroup(program, words));
  if (isUnknown) return unknownCommand(program, words);
  return MISUSES.includes(error.code) ? misuse(program, words, error) : error;
}

/** What a look at the command's help mends. */
const MISUSES = [
  'missingArgument',
  'excessArguments',
  'missingMandatoryOptionValue',
  'unknownOption',
].map((each) => `commander.${each}`);

function misuse(program: Command, words: readonly string[], error: CommanderError): UsageError {
  const what = error.message.replace(/^error: /, '').replace(/\.$/, '');
  const group = leadingCommands(program, words);
  return new UsageError(`${what}; see "${helpOf(group)}"`, { cause: error });
}

/** Returns the words, from the first on, that are a command. */
function leadingCommands(program: Command, words: readonly string[]): string[] {
  const group: string[] = [];
  let command = program;
  for (const word of words) {
    const found = command.commands.find((each) => each.name() === word);
    if (found === undefined) break;
    group.push(word);
    command = found;
  }
  return group;
}

function helpOf(group: readonly string[]): string {
  return ['keyward', ...group, '--help'].join(' ');
}

/** Whether the words end in a command that has commands of its own. */
function isGroup(program: Command, words: readonly string[]): boolean {
  let command: Command | undefined = program;
  for (const word of words) {
    const found: Command | undefined = command.commands.find((each) => each.name() === word);
    if (found === undefined) return command.commands.length > 0;
    command = found;
  }
  return false;
}

function unknownCommand(program: Command, words: readonly string[]): UsageError {
  const group = leadingCommands(program, words);
  const meant = suggestions(program, words, group.length).map((path) => `"keyward ${path}"`);
  const advice =
    meant.length > 0 ? `did you mean ${meant.join(' or ')}?` : `see "${helpOf(group)}"`;
  const typed = ['keyward', ...words.slice(0, group.length + 1)].join(' ');
  return new UsageError(`cannot run "${typed}": there is no such command; ${advice}`);
}
