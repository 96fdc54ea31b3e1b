// Writes openapi.json as a page; nothing is loaded from elsewhere.
import { $, ask, element } from "/kit.js";

const limits = (schema) => {
  const found = schema.anyOf?.find((one) => one.type !== "null") ?? schema;
  const parts = [found.enum ? found.enum.join(" or ") : found.type];
  if (found.minimum !== undefined) parts.push(found.maximum ? `${found.minimum} to ${found.maximum}` : `at least ${found.minimum}`);
  if (found.maxLength) parts.push(`at most ${found.maxLength} characters`);
  if (found.maxItems) parts.push(`at most ${found.maxItems}`);
  if (schema.default !== undefined) parts.push(`default ${JSON.stringify(schema.default)}`);
  return parts.join(", ");
};

const { paths } = await ask("/openapi.json");
for (const [path, methods] of Object.entries(paths)) {
  for (const [method, route] of Object.entries(methods)) {
    const list = element("dl");
    for (const one of route.parameters ?? []) {
      const about = [one.description, limits(one.schema)].filter(Boolean).join("; ");
      list.append(element("dt", {}, one.name), element("dd", {}, about));
    }
    const title = element("h2", {}, element("span", {}, method.toUpperCase()), path);
    const article = element("article", {}, title, element("p", {}, route.description));
    if (list.children.length) article.append(list);
    $("routes").append(article);
  }
}
