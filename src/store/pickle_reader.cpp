#include "store/pickle_reader.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/as_strided.h>
#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include <cstring>
#include <deque>
#include <unordered_map>
#include <variant>

namespace lockstep {
namespace {

struct None {};
struct Opaque {};  // a number or flag that no tensor needs
struct Global {
  std::string name;  // "module class"
};
struct Storage {
  std::string key;
  at::ScalarType type;
  int64_t count;
};
struct Value;
using Items = std::vector<Value>;
struct Dict {
  std::vector<std::pair<Value, Value>> entries;
};
// Lists, tuples and dicts belong to the machine, so that neither a cycle nor deep nesting is a trouble when they go.
struct Value : std::variant<None, Opaque, int64_t, std::string, Global, Storage, at::Tensor, Items*, Dict*> {
  using variant::variant;
};

template <typename T>
const T& as(const Value& value, const char* what) {
  const T* found = std::get_if<T>(&value);
  if (found == nullptr) throw Malformed(fmt::format("its pickle has something else in place of {}", what));
  return *found;
}

const Items& items_of(const Value& value, const char* what) { return *as<Items*>(value, what); }

at::ScalarType type_of_storage(const std::string& name) {
  static const std::unordered_map<std::string, at::ScalarType> types = {
      {"torch FloatStorage", at::kFloat},       {"torch DoubleStorage", at::kDouble}, {"torch HalfStorage", at::kHalf},
      {"torch BFloat16Storage", at::kBFloat16}, {"torch LongStorage", at::kLong},     {"torch IntStorage", at::kInt},
      {"torch ShortStorage", at::kShort},       {"torch CharStorage", at::kChar},     {"torch ByteStorage", at::kByte},
      {"torch BoolStorage", at::kBool}};
  const auto found = types.find(name);
  if (found == types.end()) throw Malformed(fmt::format("it holds numbers of an unknown type ({})", name));
  return found->second;
}

// The stack machine of pickle.
class Machine {
 public:
  explicit Machine(const ZipReader& archive) : archive_(archive), code_(archive.member("data.pkl")) {}
  Value run();

 private:
  std::string_view take(uint64_t size);
  std::string line();
  uint64_t number(unsigned size);

  Value pop();
  Items pop_to_mark();
  Value& top();
  void put_memo(uint64_t index) { memo_[index] = top(); }
  void get_memo(uint64_t index);
  void push_items(Items items) { stack_.emplace_back(&items_.emplace_back(std::move(items))); }
  void make_tuple(std::size_t size);
  void set_items(const Items& keys_and_values);
  void append_items(Items items);

  Value reduce(const Global& function, const Items& arguments);
  Storage storage(const Items& id) const;
  at::Tensor tensor(const Items& arguments);
  at::Tensor storage_values(const Storage& storage);

  const ZipReader& archive_;
  std::string_view code_;
  Items stack_;
  std::deque<Items> items_;
  std::deque<Dict> dicts_;
  std::vector<std::size_t> marks_;
  std::unordered_map<uint64_t, Value> memo_;
  std::unordered_map<std::string, at::Tensor> storages_;
};

std::string_view Machine::take(uint64_t size) {
  if (size > code_.size()) throw Malformed("its pickle ends too early");
  const std::string_view taken = code_.substr(0, size);
  code_.remove_prefix(size);
  return taken;
}

std::string Machine::line() {
  const std::size_t end = code_.find('\n');
  if (end == std::string_view::npos) throw Malformed("its pickle ends too early");
  std::string text(take(end));
  take(1);
  return text;
}

uint64_t Machine::number(unsigned size) {
  uint64_t value = 0;
  const std::string_view digits = take(size);
  for (unsigned i = 0; i < size; ++i) value |= uint64_t{static_cast<uint8_t>(digits[i])} << 8 * i;
  return value;
}

Value& Machine::top() {
  if (stack_.empty() || (!marks_.empty() && stack_.size() == marks_.back()))
    throw Malformed("its pickle's stack is empty");
  return stack_.back();
}

Value Machine::pop() {
  Value value = std::move(top());
  stack_.pop_back();
  return value;
}

Items Machine::pop_to_mark() {
  if (marks_.empty()) throw Malformed("its pickle lacks a mark");
  const auto first = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
  Items items(std::make_move_iterator(first), std::make_move_iterator(stack_.end()));
  stack_.erase(first, stack_.end());
  marks_.pop_back();
  return items;
}

void Machine::get_memo(uint64_t index) {
  const auto found = memo_.find(index);
  if (found == memo_.end()) throw Malformed("its pickle refers to nothing");
  stack_.push_back(found->second);
}

void Machine::make_tuple(std::size_t size) {
  Items items(size);
  for (std::size_t i = size; i-- > 0;) items[i] = pop();
  push_items(std::move(items));
}

void Machine::set_items(const Items& keys_and_values) {
  if (keys_and_values.size() % 2 != 0) throw Malformed("its pickle has a key without a value");
  Dict* dict = as<Dict*>(top(), "a dict");
  for (std::size_t i = 0; i < keys_and_values.size(); i += 2) {
    dict->entries.emplace_back(keys_and_values[i], keys_and_values[i + 1]);
  }
}

void Machine::append_items(Items items) {
  Items* list = as<Items*>(top(), "a list");
  for (Value& item : items) list->push_back(std::move(item));
}

Value Machine::run() {
  for (;;) {
    switch (const auto opcode = static_cast<uint8_t>(take(1)[0])) {
      case 0x80:  // PROTO
        take(1);
        break;
      case '.':  // STOP
        return pop();
      case '(':  // MARK
        marks_.push_back(stack_.size());
        break;
      case 'N':  // NONE
        stack_.emplace_back(None{});
        break;
      case 0x88:  // NEWTRUE
      case 0x89:  // NEWFALSE
        stack_.emplace_back(Opaque{});
        break;
      case 'K':  // BININT1
        stack_.emplace_back(static_cast<int64_t>(number(1)));
        break;
      case 'M':  // BININT2
        stack_.emplace_back(static_cast<int64_t>(number(2)));
        break;
      case 'J':  // BININT
        stack_.emplace_back(int64_t{static_cast<int32_t>(number(4))});
        break;
      case 0x8a: {  // LONG1
        const auto size = static_cast<unsigned>(number(1));
        if (size > 8) throw Malformed("it holds a number of more than 64 bits");
        const uint64_t raw = number(size);
        const unsigned unused = 64 - 8 * size;
        stack_.emplace_back(size == 0 ? int64_t{0} : static_cast<int64_t>(raw << unused) >> unused);
        break;
      }
      case 'G':  // BINFLOAT
        take(8);
        stack_.emplace_back(Opaque{});
        break;
      case 'X':  // BINUNICODE
        stack_.emplace_back(std::string(take(number(4))));
        break;
      case ')':  // EMPTY_TUPLE
      case ']':  // EMPTY_LIST
        push_items({});
        break;
      case '}':  // EMPTY_DICT
        stack_.emplace_back(&dicts_.emplace_back());
        break;
      case 0x85:  // TUPLE1
        make_tuple(1);
        break;
      case 0x86:  // TUPLE2
        make_tuple(2);
        break;
      case 0x87:  // TUPLE3
        make_tuple(3);
        break;
      case 't':  // TUPLE
        push_items(pop_to_mark());
        break;
      case 'q':  // BINPUT
        put_memo(number(1));
        break;
      case 'r':  // LONG_BINPUT
        put_memo(number(4));
        break;
      case 'h':  // BINGET
        get_memo(number(1));
        break;
      case 'j':  // LONG_BINGET
        get_memo(number(4));
        break;
      case 'a':  // APPEND
        append_items({pop()});
        break;
      case 'e':  // APPENDS
        append_items(pop_to_mark());
        break;
      case 'u':  // SETITEMS
        set_items(pop_to_mark());
        break;
      case 's': {  // SETITEM
        Value value = pop();
        Value key = pop();
        set_items({std::move(key), std::move(value)});
        break;
      }
      case 'c': {  // GLOBAL
        std::string name = line();
        name += ' ' + line();
        stack_.emplace_back(Global{std::move(name)});
        break;
      }
      case 'Q': {  // BINPERSID
        const Value id = pop();
        stack_.emplace_back(storage(items_of(id, "a storage")));
        break;
      }
      case 'R': {  // REDUCE
        const Value arguments = pop();
        const Value function = pop();
        stack_.push_back(reduce(as<Global>(function, "a function"), items_of(arguments, "arguments")));
        break;
      }
      case 'b':  // BUILD
        // What PyTorch adds to a state_dict: versions of modules, which no tensor needs.
        pop();
        as<Dict*>(top(), "a state_dict");
        break;
      default:
        throw Malformed(fmt::format("it holds more than a dict of tensors (pickle opcode {:#04x})", opcode));
    }
  }
}

Value Machine::reduce(const Global& function, const Items& arguments) {
  const auto& name = function.name;
  if (name == "collections OrderedDict" && arguments.empty()) return &dicts_.emplace_back();
  if (name == "torch._utils _rebuild_tensor_v2") return tensor(arguments);
  // torch.nn.Parameter, and the type that C++'s pickle_save writes beside a dict
  if ((name == "torch._utils _rebuild_parameter" || name == "torch.jit._pickle restore_type_tag") &&
      !arguments.empty()) {
    return arguments[0];
  }
  throw Malformed(fmt::format("it holds a Python object that is no tensor ({})", name));
}

Storage Machine::storage(const Items& id) const {
  // ("storage", type, key, device, number of elements)
  if (id.size() != 5) throw Malformed("its pickle has a storage of another form");
  return {as<std::string>(id[2], "a storage's name"), type_of_storage(as<Global>(id[1], "a storage's type").name),
          as<int64_t>(id[4], "a storage's size")};
}

at::Tensor Machine::storage_values(const Storage& storage) {
  const auto known = storages_.find(storage.key);
  if (known != storages_.end()) {
    if (known->second.scalar_type() != storage.type || known->second.numel() != storage.count) {
      throw Malformed(fmt::format("two tensors disagree about the storage {}", storage.key));
    }
    return known->second;
  }
  const std::string_view bytes = archive_.member("data/" + storage.key);
  const std::size_t item = c10::elementSize(storage.type);
  if (storage.count < 0 || bytes.size() % item != 0 || bytes.size() / item != static_cast<uint64_t>(storage.count)) {
    throw Malformed(
        fmt::format("the storage {} holds {} bytes, expected {} numbers", storage.key, bytes.size(), storage.count));
  }
  at::Tensor values = at::empty({storage.count}, storage.type);
  if (!bytes.empty()) std::memcpy(values.mutable_data_ptr(), bytes.data(), bytes.size());
  return storages_.emplace(storage.key, std::move(values)).first->second;
}

at::Tensor Machine::tensor(const Items& arguments) {
  // (storage, offset, shape, strides, requires_grad, hooks)
  if (arguments.size() < 4) throw Malformed("its pickle has a tensor of another form");
  const at::Tensor values = storage_values(as<Storage>(arguments[0], "a storage"));
  const int64_t offset = as<int64_t>(arguments[1], "an offset");
  const auto integers = [](const Items& items) {
    std::vector<int64_t> result;
    for (const Value& item : items) {
      result.push_back(as<int64_t>(item, "a size"));
      if (result.back() < 0) throw Malformed("a tensor has a negative size");
    }
    return result;
  };
  const std::vector<int64_t> shape = integers(items_of(arguments[2], "a shape"));
  const std::vector<int64_t> strides = integers(items_of(arguments[3], "strides"));
  // The last element must lie in the storage.
  int64_t count = 1, last = offset;
  bool fits = offset >= 0 && shape.size() == strides.size();
  for (std::size_t i = 0; fits && i < shape.size(); ++i) {
    int64_t reach = 0;
    fits = !__builtin_mul_overflow(count, shape[i], &count) &&
           (shape[i] == 0 ||
            (!__builtin_mul_overflow(shape[i] - 1, strides[i], &reach) && !__builtin_add_overflow(last, reach, &last)));
  }
  if (!fits || (count > 0 && last >= values.numel())) throw Malformed("a tensor reaches beyond its storage");
  return at::as_strided(values, shape, strides, count > 0 ? offset : 0);
}

}  // namespace

NamedTensors read_pickled_tensors(const ZipReader& archive) {
  if (archive.has("byteorder") && archive.member("byteorder") != "little") {
    throw Malformed("its numbers are big-endian");
  }
  Machine machine(archive);
  const Value top = machine.run();
  const auto* dict = std::get_if<Dict*>(&top);
  if (dict == nullptr) throw Malformed("it holds no dict");
  NamedTensors tensors;
  for (const auto& [key, value] : (*dict)->entries) {
    const auto* name = std::get_if<std::string>(&key);
    if (name == nullptr) throw Malformed("a key of its dict is no text");
    const auto* tensor = std::get_if<at::Tensor>(&value);
    if (tensor == nullptr) throw Malformed(fmt::format("its entry {} is no tensor", *name));
    tensors.emplace_back(*name, *tensor);
  }
  return tensors;
}

}  // namespace lockstep
