/**
 * docs/command.md, compared with the command: every one of its commands, and its exit codes.
 */
import { test } from 'node:test';
import type { Command } from 'commander';
import { item } from '../../bench/markdown.ts';
import { EXIT_CODES } from '../../cli/src/failures.ts';
import { buildProgram } from '../../cli/src/program.ts';
import { assertWritten } from '../support/document.ts';

/** A command and those below it, without groups themselves. */
function* commandsOf(command: Command, path: string): Generator<[string, string]> {
  const below = command.createHelp().visibleCommands(command);
  const words = command.registeredArguments.map((argument) => {
    const word = `${argument.name()}${argument.variadic ? '...' : ''}`;
    return argument.required ? `<${word}>` : `[${word}]`;
  });
  if (below.length === 0) yield [[path, ...words].join(' '), command.description()];
  for (const each of below)
    if (each.name() !== 'help') yield* commandsOf(each, `${path} ${each.name()}`);
}

function commandList(): string {
  const program = buildProgram();
  const groups = Map.groupBy(program.createHelp().visibleCommands(program), (command) =>
    command.helpGroup(),
  );
  return Array.from(groups, ([group, commands]) => {
    const items = commands.flatMap((command) =>
      Array.from(commandsOf(command, command.name()), ([line, what]) =>
        item(`\`${line}\`: ${what}`),
      ),
    );
    return `### ${group.replace(/:$/, '')}\n\n${items.join('\n')}\n`;
  }).join('\n');
}

function exitCodes(): string {
  return `${EXIT_CODES.map((meaning, code) => item(`**${code}**: ${meaning}`)).join('\n')}\n`;
}

test('docs/command.md lists every command and exit code (UPDATE=1 writes it)', () => {
  assertWritten('docs/command.md', 'test/documents/command.test.ts', [
    { mark: 'commands', content: commandList() },
    { mark: 'exit codes', content: exitCodes() },
  ]);
});
