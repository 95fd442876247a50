// Reads a JSON list of Kubernetes resources from stdin, writes a JSON list of what is wrong with them.
// Each is held against its model's validator (values, required fields) and its TypeScript type (fields that do not exist).
import { readFileSync } from "node:fs";
import ts from "typescript";

const PACKAGES = {
  "keda.sh": "@kubernetes-models/keda",
  "monitoring.coreos.com": "@kubernetes-models/prometheus-operator",
};
const FILE = new URL("resources.ts", import.meta.url).pathname;

const resources = JSON.parse(readFileSync(0, "utf8"));
const problems = [];
const told = (resource, what) => problems.push(`${resource.kind}/${resource.metadata?.name}: ${what}`);

const lines = [];
for (const resource of resources) {
  const { apiVersion, kind } = resource;
  const group = apiVersion.includes("/") ? apiVersion.split("/")[0] : "";
  const module = `${PACKAGES[group] ?? "kubernetes-models"}/${apiVersion}/${kind}`;
  try {
    new (await import(module))[kind](resource).validate();
  } catch (error) {
    told(resource, error.message);
  }
  // One line each, so that a line's number tells the resource.
  lines.push(`export const r${lines.length}: import("${module}").I${kind} = ${JSON.stringify(resource)};`);
}

const text = lines.join("\n");
const options = {
  strict: true,
  skipLibCheck: true,
  noEmit: true,
  types: [],
  target: ts.ScriptTarget.ES2022,
  module: ts.ModuleKind.NodeNext,
  moduleResolution: ts.ModuleResolutionKind.NodeNext,
};
const host = ts.createCompilerHost(options);
const { fileExists, getSourceFile, readFile } = host;
host.fileExists = (name) => name === FILE || fileExists(name);
host.readFile = (name) => (name === FILE ? text : readFile(name));
host.getSourceFile = (name, ...rest) =>
  name === FILE ? ts.createSourceFile(name, text, options.target) : getSourceFile(name, ...rest);
for (const found of ts.getPreEmitDiagnostics(ts.createProgram([FILE], options, host))) {
  const message = ts.flattenDiagnosticMessageText(found.messageText, " ");
  if (found.file?.fileName === FILE) {
    told(resources[found.file.getLineAndCharacterOfPosition(found.start).line], message);
  } else {
    problems.push(`${found.file?.fileName}: ${message}`);
  }
}
process.stdout.write(JSON.stringify(problems));
