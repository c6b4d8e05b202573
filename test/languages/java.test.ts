/** A client in Java. Only what it needs of the generated classes is compiled. */
import { testLanguage } from './rig.ts';

const QUICK = '-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xshare:auto';

testLanguage({
  name: 'Java',
  // The document's generators are of this platform.
  tools: '[ "$(uname -sm)" = "Linux x86_64" ] && javac -version && mvn -v',
  files: { 'Main.java': 'src/Main.java' },
  env: { MAVEN_OPTS: QUICK, JDK_JAVAC_OPTIONS: '-proc:none -nowarn -g:none' },
  compile: `javac ${QUICK.replaceAll('-X', '-J-X')} -cp 'lib/*' -sourcepath src -d classes src/Main.java`,
  run: `java ${QUICK} -cp 'classes:lib/*' Main`,
});
