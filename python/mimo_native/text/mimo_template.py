"""The chat template of the MiMo-V2 family, for checkpoints that carry none.

ChatML with nothing between ``<|im_end|>`` and the next ``<|im_start|>``. A system turn is always
there. Thinking off is an empty ``<think></think>`` at the start of the answer; past answers
without reasoning are written the same way. ``keep_all_reasoning`` false drops reasoning from
before the last user turn. Tool results are turns of the role ``tool``, consecutive ones in one
turn.
"""

__all__ = ["MIMO_TEMPLATE"]

MIMO_TEMPLATE = r"""
{%- set thinking = enable_thinking is not defined or enable_thinking -%}
{%- set keep_all = keep_all_reasoning is not defined or keep_all_reasoning -%}
{%- macro text_of(content) -%}
  {%- if content is string -%}
    {{- content -}}
  {%- else -%}
    {%- for part in content or [] -%}
      {%- if part.type != "text" -%}
        {{- raise_exception("only text can be rendered, got a part of type " ~ part.type) -}}
      {%- endif -%}
      {{- part.text -}}
    {%- endfor -%}
  {%- endif -%}
{%- endmacro -%}

{%- if messages and messages[0].role == "system" -%}
  {%- set system = text_of(messages[0].content) -%}
  {%- set turns = messages[1:] -%}
{%- else -%}
  {%- set system = "You are MiMo, a helpful AI assistant engineered by Xiaomi." -%}
  {%- set turns = messages -%}
{%- endif -%}
{{- "<|im_start|>system\n" ~ system -}}
{%- if tools -%}
  {{- "\n\n# Tools\n\nThese functions can be called:\n<tools>" -}}
  {%- for tool in tools -%}
    {{- "\n" ~ ((tool.function or tool) | tojson) -}}
  {%- endfor -%} {{- "\n</tools>\n\nA call is written in this form, values as they are:\n" -}} {{-
  "<tool_call>\n<function=NAME>\n<parameter=KEY>VALUE</parameter>\n</function>\n</tool_call>" -}}
{%- endif -%}
{{- "<|im_end|>" -}}

{%- set last = namespace(user=-1) -%}
{%- for turn in turns -%}
  {%- if turn.role == "user" -%}
    {%- set last.user = loop.index0 -%}
  {%- endif -%}
{%- endfor -%}
{%- for turn in turns -%}
  {%- set content = text_of(turn.content) -%}
  {%- if turn.role == "assistant" -%}
    {%- set reasoning = turn.reasoning_content or "" -%}
    {%- if not reasoning and "</think>" in content -%}
      {%- set reasoning = content.split("</think>")[0].split("<think>")[-1] -%}
      {%- set content = content.split("</think>")[-1] -%}
    {%- endif -%}
    {%- if not keep_all and loop.index0 < last.user -%}
      {%- set reasoning = "" -%}
    {%- endif -%}
    {{- "<|im_start|>assistant\n<think>" ~ reasoning ~ "</think>" ~ content -}}
    {%- for call in turn.tool_calls or [] -%}
      {%- set call = call.function or call -%}
      {{- "<tool_call>\n<function=" ~ call.name ~ ">\n" -}}
      {%- for key, value in (call.arguments or {}).items() -%}
        {{- "<parameter=" ~ key ~ ">" -}}
        {{- value if value is string else value | tojson -}}
        {{- "</parameter>\n" -}}
      {%- endfor -%}
      {{- "</function>\n</tool_call>" -}}
    {%- endfor -%}
    {{- "<|im_end|>" -}}
  {%- elif turn.role == "tool" -%}
    {%- if loop.first or loop.previtem.role != "tool" -%}
      {{- "<|im_start|>tool\n" -}}
    {%- endif -%}
    {{- "<tool_response>\n" ~ content ~ "\n</tool_response>\n" -}}
    {%- if loop.last or loop.nextitem.role != "tool" -%}
      {{- "<|im_end|>" -}}
    {%- endif -%}
  {%- else -%}
    {{- "<|im_start|>" ~ turn.role ~ "\n" ~ content ~ "<|im_end|>" -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- "<|im_start|>assistant\n" -}}
  {%- if not thinking -%}
    {{- "<think></think>" -}}
  {%- endif -%}
{%- endif -%}
"""
