// Asks the server at CHATGLM_ADDRESS by clients for node; writes {client: {feature: what was found}} as JSON.
// Run by tests/test_strangers.py; beside it must be node_modules with what package.json names.
import {createOpenAI} from "@ai-sdk/openai"
import {createOpenAICompatible} from "@ai-sdk/openai-compatible"
import Anthropic from "@anthropic-ai/sdk"
import {ChatOpenAI} from "@langchain/openai"
import {generateObject, generateText, jsonSchema, streamText, tool} from "ai"
import {Ollama} from "ollama"
import OpenAI from "openai"
import {z} from "zod"

const address = process.env.CHATGLM_ADDRESS, baseURL = address + "/v1", apiKey = "EMPTY", maxRetries = 0
const model = "chatglm-6b", temperature = 0, prompt = "你好", messages = [{role: "user", content: prompt}]
const cities = ["北京", "上海"], districts = z.union([z.literal(1), z.literal(2)])
const schema = z.object({name: z.enum(cities), districts})
const parameters = {
  type: "object", properties: {city: {enum: cities}}, required: ["city"], additionalProperties: false
}
const weather = {type: "function", function: {name: "weather", parameters}}
const join = async (stream, textOf) => {
  let text = ""
  for await (const part of stream) text += textOf(part) ?? ""
  return text
}

const openai = new OpenAI({baseURL, apiKey, maxRetries})
const create = more => openai.chat.completions.create({model, messages, temperature, ...more})
const anthropic = new Anthropic({baseURL: address, apiKey, maxRetries})
const message = {model, messages, temperature, max_tokens: 60}
const ollama = new Ollama({host: address})
const question = {model, messages, options: {temperature}}
const langchain = more =>
  new ChatOpenAI({model, temperature, apiKey, configuration: {baseURL}, maxRetries, ...more})
const aiSdk = languageModel => {
  const ask = {model: languageModel, prompt, temperature, maxRetries}
  const tools = {weather: tool({description: "weather", inputSchema: jsonSchema(parameters)})}
  return {
    text: async () => (await generateText(ask)).text,
    stream: () => join(streamText(ask).textStream, part => part),
    object: async () => (await generateObject({...ask, schema})).object,
    tools: async () => (await generateText({...ask, tools, toolChoice: "required"})).toolCalls
      .map(call => [call.toolName, call.input]),
  }
}

const features = {
  "openai": {
    text: async () => (await create()).choices[0].message.content,
    stream: async () => join(await create({stream: true}), chunk => chunk.choices[0]?.delta.content),
    tools: async () => (await create({tools: [weather], tool_choice: "required"})).choices[0].message.tool_calls
      .map(call => [call.function.name, JSON.parse(call.function.arguments)]),
    responses: async () => (await openai.responses.create({model, input: prompt, temperature})).output_text,
    "responses stream": () => join(openai.responses.stream({model, input: prompt, temperature}),
      event => event.type == "response.output_text.delta" ? event.delta : ""),
  },
  "@anthropic-ai/sdk": {
    text: async () => (await anthropic.messages.create(message)).content[0].text,
    stream: () => anthropic.messages.stream(message).finalText(),
  },
  "ollama": {
    text: async () => (await ollama.chat(question)).message.content,
    stream: async () => join(await ollama.chat({...question, stream: true}), line => line.message.content),
  },
  "@ai-sdk/openai-compatible":
    aiSdk(createOpenAICompatible({name: "chatglm", baseURL, apiKey, supportsStructuredOutputs: true})(model)),
  "@ai-sdk/openai": aiSdk(createOpenAI({baseURL, apiKey})(model)),
  "@langchain/openai": {
    text: async () => (await langchain().invoke(prompt)).content,
    stream: async () => join(await langchain().stream(prompt), chunk => chunk.content),
    object: () => langchain().withStructuredOutput(schema).invoke(prompt),
    tools: async () => (await langchain().bindTools([weather], {tool_choice: "required"}).invoke(prompt)).tool_calls
      .map(call => [call.name, call.args]),
    responses: async () => (await langchain({useResponsesApi: true}).invoke(prompt)).content[0].text,
  },
}

const results = {}
for (const [client, asked] of Object.entries(features)) {
  results[client] = {}
  for (const [feature, run] of Object.entries(asked)) {
    try { results[client][feature] = await run() } catch (error) { results[client][feature] = String(error) }
  }
}
process.stdout.write(JSON.stringify(results))
